"""A study with someone's own loss: from a file beside it, and from a notebook that defines the class."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from raydaa.results import TrialResults
from tests.command import Command
from tests.judging.server import Reply, completion, serving
from tests.studies import begun, micro, written

pytestmark = pytest.mark.slow

LOSS = """
from dataclasses import dataclass
import torch
from raydaa import Method
from scales import SCALE

@dataclass(frozen=True, kw_only=True)
class Hinge(Method):
    beta: float
    name = "hinge"
    ranking, score = "pairwise", "ratio"

    def per_pair(self, chosen, rejected, logps):
        return torch.relu(SCALE - self.beta * (chosen - rejected))

@dataclass(frozen=True, kw_only=True)
class Broken(Hinge):
    name = "broken"

    def per_pair(self, chosen, rejected, logps):
        raise ValueError("no such thing as a loss")

@dataclass(frozen=True, kw_only=True)
class Unfit(Hinge):
    name = "unfit"

    def per_pair(self, chosen, rejected, logps):
        from raydaa.errors import MachineError
        raise MachineError("this process was given GPU 0 and can't use it")
"""
SCRIPT = """
import asyncio, os, sys, yaml
import ray
from raydaa import Study
{loss}

async def cell():
    tree = yaml.safe_load(open(sys.argv[1]))
    tree["search"]["methods"] = [{{"name": Hinge, "beta": [0.1]}}, {{"name": "rso", "beta": [0.1]}}]
    return Study.from_tree(tree, {{"storage.study": sys.argv[2]}}).run()

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, _temp_dir=os.environ["RAY_TMPDIR"])
    results = asyncio.run(cell())
    print(ray.get(ray.remote(lambda: "still here").remote()))
    print(results.best("hinge").ranking, results.best("hinge").checkpoint)
"""


@pytest.fixture
def folder(command: Command, undisturbed: tuple[Path, str], tmp_path: Path) -> Path:
    """A study folder; beside the study lies what the loss imports."""
    (command.folder / "scales.py").write_text("SCALE = 1.0\n")
    return begun(undisturbed[0], tmp_path / "out")


def check(folder: Path) -> None:
    """The own hinge loss is `rso` by another name: the same trials must come out."""
    rows = TrialResults.load(folder).rows
    mine, built_in = ({r.learning_rate: r for r in rows if r.method == name} for name in ("hinge", "rso"))
    assert len(mine) == 2
    for rate, row in mine.items():
        assert row.ranking == "pairwise"
        assert (row.state, row.preference_loss) == (built_in[rate].state, built_in[rate].preference_loss)
    assert (folder / "best" / "hinge" / "config.json").exists()
    assert "hinge" in (folder / "report" / "tables.md").read_text()


def test_from_a_file_beside_the_study(command: Command, folder: Path) -> None:
    (command.folder / "mine.py").write_text(LOSS)
    tree = micro(name="own")
    tree["search"]["methods"] = [{"name": name, "beta": [0.1]} for name in ("mine:Broken", "mine:Hinge", "rso")]
    tree["search"]["methods"][0]["learning_rate"] = 1.0e-3  # each failure costs a process
    tree["scaling"] = {"max_failures": 1, "concurrent_trials": 1}
    study = written(command.folder, tree)
    refused = command.run("run", str(study), "--output", str(folder))
    assert refused.returncode == 2
    assert "'mine:Broken' is code of your own; add --allow-code" in refused.stderr
    result = command.run("run", str(study), "--output", str(folder), "--allow-code")
    assert result.returncode == 0, result.stdout + result.stderr
    check(folder)
    # What raised is a record of its own, and no trial after it is the worse for it.
    broken = [row for row in TrialResults.load(folder).rows if row.method == "broken"]
    assert [row.state for row in broken] == ["failed"]
    assert "no such thing as a loss" in str(broken[0].reason)
    # Reading results needs no code.
    (command.folder / "mine.py").unlink()
    assert command.run("report", str(folder)).returncode == 0
    assert command.wait_until_gone() == {}


def test_what_no_trial_could_do_here_ends_the_study(command: Command, folder: Path) -> None:
    """It is not tried again, nor by other trials."""
    (command.folder / "mine.py").write_text(LOSS)
    tree = micro(name="unfit")
    tree["search"]["methods"] = [{"name": "mine:Unfit", "beta": [0.1, 0.2, 0.3]}]
    tree["scaling"] = {"concurrent_trials": 1}
    ended = command.run("run", str(written(command.folder, tree)), "--output", str(folder), "--allow-code")
    assert ended.returncode == 1
    log = folder / "logs" / "driver.log"
    told = "this process was given GPU 0 and can't use it"
    assert ended.stderr == f"raydaa: {told} (see {log}; what is done is kept)\n"
    assert len(list(folder.glob("trials/*"))) == 1
    assert "failed" not in ended.stdout
    assert command.wait_until_gone() == {}


def test_from_a_notebook_that_defines_it(command: Command, folder: Path) -> None:
    """An event loop runs, Ray is there before and after, and a judge behind an endpoint is asked."""
    pytest.importorskip("openai", reason="openai is not installed")
    script = command.folder / "script.py"
    script.write_text(textwrap.dedent(SCRIPT.format(loss=LOSS)))
    with serving(lambda number, body: Reply(completion("Winner: A"))) as server:
        judge = {"kind": "openai", "model": "judge", "base_url": server.url, "api_key_env": None, "prompt": "tldr"}
        study = written(command.folder, micro(name="own", evaluation={"judge": judge, "models": [], "kl_prompts": 8}))
        run = [sys.executable, str(script), str(study), str(folder)]
        result = subprocess.run(
            run, env=command.environment, cwd=command.folder, capture_output=True, text=True, timeout=600, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stdout.splitlines()[-2:] == ["still here", f"pairwise {folder}/best/hinge"]
        assert "the Ray that this process is connected to is used, and left running" in result.stdout + result.stderr
        assert server.asked
    check(folder)
    assert command.wait_until_gone() == {}
