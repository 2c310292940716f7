"""In somebody else's process a study leaves everything as it found it."""

import json
import subprocess
import sys

import pytest

from tests.command import Command
from tests.studies import micro, written

pytestmark = pytest.mark.slow

# A notebook's process: it has a backend, log levels and handlers of its own, and torch is there already.
SCRIPT = """
import json, logging, os, signal, sys, threading, warnings
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["font.size"] = 17
logging.getLogger().setLevel(logging.ERROR)
logging.getLogger("transformers").setLevel(logging.INFO)
logging.getLogger("ray").setLevel(logging.CRITICAL)
for number in (signal.SIGUSR2, signal.SIGTERM):
    signal.signal(number, lambda *_: None)
warnings.simplefilter("always")
import torch

torch.set_num_threads(2)

def looks():
    import gc
    handlers = {n.name: repr(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    levels = {n: l.level for n, l in sorted(logging.root.manager.loggerDict.items()) if isinstance(l, logging.Logger)}
    files = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            files[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            pass
    return {
        "backend": matplotlib.get_backend(),
        "font": matplotlib.rcParams["font.size"],
        "hatch": matplotlib.rcParams["axes.facecolor"],
        "levels": {n: levels[n] for n in ("transformers", "ray")} | {"root": logging.getLogger().level},
        "root handlers": list(map(repr, logging.getLogger().handlers)),
        "handlers": handlers,
        "environment": dict(os.environ),
        "streams": {fd: files[fd] for fd in "012"},
        "python streams": [sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__],
        "hidden modules": sorted(n for n, m in sys.modules.items() if m is None),
        "threads": torch.get_num_threads(),
        "collection": gc.get_threshold(),
        "unraisable": sys.unraisablehook is sys.__unraisablehook__,
        "warnings": len(warnings.filters),
        "folder": os.getcwd(),
        "path": sys.path,
    }

before = looks()
import raydaa

class Cell:  # a notebook's output: no file, and nothing that could be copied to another process
    def __init__(self):
        self.text, self.lock = "", threading.Lock()

    def write(self, text):
        self.text += text

    def flush(self):
        pass

imported = looks()
sys.stdout = cell = Cell()
results = raydaa.Study.load(sys.argv[1]).with_values(
    {"storage.study": sys.argv[2], "search.methods": [{"name": "dpo", "beta": [0.1]}]}
).run()
kept, sys.stdout = sys.stdout is cell, sys.__stdout__
run = looks()
results.report(sys.argv[3])
reported = looks()
from sklearn.base import BaseEstimator  # was kept from nobody
import transformers
bars = transformers.utils.logging.is_progress_bar_enabled()
figures = 0
if "matplotlib.pyplot" in sys.modules:
    figures = len(sys.modules["matplotlib.pyplot"].get_fignums())
Path(sys.argv[4]).write_text(json.dumps([before, imported, run, reported, kept, cell.text, bars, figures]))
print("the script goes on")
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """What a process looks like before and after raydaa is imported, a study is run, and reported."""
    folder = tmp_path_factory.mktemp("guest")
    command = Command(folder)
    study = written(folder, micro())
    (folder / "script.py").write_text(SCRIPT)
    arguments = [sys.executable, "script.py", str(study), "out", "report", "seen.json"]
    done = subprocess.run(
        arguments, cwd=folder, env=command.environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "the script goes on"
    assert (folder / "report" / "index.html").is_file()
    found: list[object] = json.loads((folder / "seen.json").read_text())
    return found


@pytest.mark.parametrize(
    "what",
    [
        "backend",
        "font",
        "hatch",
        "levels",
        "root handlers",
        "handlers",
        "environment",
        "streams",
        "python streams",
        "hidden modules",
        "threads",
        "collection",
        "unraisable",
        "warnings",
        "folder",
        "path",
    ],
)
def test_it_is_as_it_was(seen: list[dict[str, object]], what: str) -> None:
    before, imported, run, reported, *_ = seen
    assert imported[what] == before[what]
    assert run[what] == before[what]
    assert reported[what] == before[what]


def test_nothing_is_left_drawn_and_bars_are_shown_again(seen: list[object]) -> None:
    assert seen[-2:] == [True, 0]


def test_what_a_study_says_is_in_the_cell(seen: list[object]) -> None:
    kept, text = seen[4:6]
    assert kept is True
    assert isinstance(text, str)
    stages = [line.partition("] ")[2].split()[0] for line in text.splitlines()]
    told = "check prepare sft reference align generate score judge measure report"
    assert list(dict.fromkeys(stages)) == told.split()
