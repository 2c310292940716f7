"""What tests share: the pocket world's base model, made once."""

import tests.shared_cores  # noqa: F401, I001  before anything that imports torch

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import raydaa.own_process  # noqa: F401
from raydaa.pocket import world as pocket
from raydaa.settings.data import PocketSettings
from raydaa.training.model import write_model
from tests.command import Command
from tests.studies import micro, written

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
# Commands have caches of their own; what vLLM finds out about its models takes it a process of a quarter minute.
os.environ.setdefault("VLLM_CACHE_ROOT", str(Path.home() / ".cache" / "vllm"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes longer than the suite may is run by name alone: ``pytest -m soak``."""
    if "soak" not in config.getoption("markexpr"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("soak")])
        items[:] = [item for item in items if not item.get_closest_marker("soak")]


@pytest.fixture(scope="session")
def pocket_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket world's freshly initialised model and tokenizer."""
    folder = tmp_path_factory.mktemp("pocket-model")
    write_model(*pocket.make_model(PocketSettings()), folder)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data that lies beside the project on some machines."""
    folder = os.environ.get("RAYDAA_TEST_DATA")
    if not folder:
        pytest.skip("RAYDAA_TEST_DATA does not name a folder with real data")
    return Path(folder)


@pytest.fixture(scope="session")
def real_model() -> Path:
    """A pretrained chat model of 135M parameters, as `tests.real_model` makes it."""
    folder = os.environ.get("RAYDAA_TEST_MODEL")
    if not folder or not (Path(folder) / "config.json").is_file():
        pytest.skip("RAYDAA_TEST_MODEL does not name the folder that python -m tests.real_model makes")
    return Path(folder)


@pytest.fixture(scope="module")
def own_ray() -> Iterator[None]:
    """A Ray of this test module's own, with its own folder and ports."""
    from raydaa.cluster import connected

    folder = tempfile.mkdtemp(prefix="rd", dir="/tmp")  # sockets have short names only
    os.environ["RAY_TMPDIR"] = folder
    try:
        with connected(None):
            yield
    finally:
        del os.environ["RAY_TMPDIR"]
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The command line, in a folder and with a cache that the session's whole studies share."""
    made = Command(tmp_path_factory.mktemp("whole"))
    yield made
    assert made.wait_until_gone() == {}


@pytest.fixture(scope="session")
def micro_run(command: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, int]:
    """The micro study, run once from start to end: its folder, what the terminal showed, the most bytes of weights.

    Each of the session's processes has a copy of its own.
    """
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "micro"
    folder, told = command.folder / "undisturbed", shared / "told.json"
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            output, peak = run_micro(command, folder)
            shutil.copytree(command.folder, shared)
            told.write_text(json.dumps([output.replace(str(folder), "FOLDER"), peak]))
        else:
            shutil.copytree(shared, command.folder, dirs_exist_ok=True)
    output, peak = json.loads(told.read_text())
    return folder, output.replace("FOLDER", str(folder)), peak


def run_micro(command: Command, folder: Path) -> tuple[str, int]:
    """What the terminal showed, and the most bytes of weights that lay in ``folder``."""
    study, peak = written(command.folder, micro()), 0
    with command.start_anew("run", str(study), "--output", str(folder)) as process:
        while process.poll() is None:
            peak = max(peak, weights_below(folder))
            time.sleep(0.2)
        output, _ = process.communicate()
    peak = max(peak, weights_below(folder))  # what stays at the end is seen for sure
    assert process.returncode == 0, output
    return output, peak


@pytest.fixture(scope="session")
def undisturbed(micro_run: tuple[Path, str, int]) -> tuple[Path, str]:
    """The folder of the undisturbed micro study, and what the terminal showed."""
    return micro_run[:2]


@pytest.fixture(scope="session")
def disk_peak(micro_run: tuple[Path, str, int]) -> int:
    """The most bytes of models and checkpoints that the undisturbed study held at a time."""
    return micro_run[2]


def weights_below(folder: Path) -> int:
    """Bytes of models and checkpoints in a folder where files come and go."""
    total = 0
    for place, _, names in os.walk(folder):  # unlike glob, it passes over folders that are gone by now
        for name in names:
            if name.endswith((".safetensors", ".pt")):
                with contextlib.suppress(FileNotFoundError):
                    total += (Path(place) / name).stat().st_size
    return total
