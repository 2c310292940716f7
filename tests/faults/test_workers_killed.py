"""Workers of a group of two die or are interrupted: the study ends as it would have."""

import os
import re
import signal
from functools import partial
from pathlib import Path

import pytest

from raydaa.results import TrialResults
from tests.command import Command, Started, wait_for
from tests.studies import done, micro, table, written

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(command: Command) -> Path:
    """One trial from the base model: every stage before it would have a group of its own."""
    tree = micro(name="two-workers", scaling={"workers": 2, "engine": "deepspeed", "zero_stage": 2})
    tree["search"] = {
        "init": "base",
        "learning_rate": 1.0e-3,
        "methods": [{"name": "dpo", "beta": 0.1}],
        "early_stopping": None,
    }
    tree["evaluation"] = {"judge": "none", "models": [], "baseline": "base"}
    return written(command.folder, tree)


@pytest.fixture(scope="module")
def quiet(command: Command, study: Path) -> Path:
    """That study, undisturbed."""
    folder = command.folder / "two-workers"
    done(command.run("run", str(study), "--output", str(folder)))
    assert [(row.state, row.training.step) for row in TrialResults.load(folder)] == [("finished", 10)]
    return folder


def wait_for_a_step(folder: Path, process: Started) -> None:
    """One more than there are."""

    def steps() -> int:
        return sum(len(path.read_text().splitlines()) for path in folder.glob("trials/*/metrics.jsonl"))

    before = steps()
    wait_for(lambda: steps() > before, process)


def kill(command: Command, rank: int, folder: Path, process: Started) -> None:
    """SIGKILL to the worker of ``rank``, as soon as its group has made a step."""

    def living() -> list[int]:
        log = (folder / "logs" / "driver.log").read_text()
        told = {int(pid) for pid in re.findall(rf"pid=(\d+)\) world_rank={rank},", log)}
        return list(told & command.processes().keys())

    wait_for_a_step(folder, process)
    os.kill(wait_for(living, process)[0], signal.SIGKILL)


@pytest.mark.parametrize(
    "ranks", [pytest.param((1,), id="one"), pytest.param((1, 0), id="both", marks=pytest.mark.soak)]
)
def test_ranks_are_killed(command: Command, study: Path, quiet: Path, ranks: tuple[int, ...]) -> None:
    """Whichever dies, Ray ends and starts the whole group."""
    folder = command.folder / f"two-workers-{len(ranks)}-killed"
    with command.start("run", str(study), "--output", str(folder)) as process:
        for rank in ranks:
            kill(command, rank, folder, process)
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert table(folder) == table(quiet)


@pytest.mark.soak
def test_interrupted_groups_go_on(command: Command, study: Path, quiet: Path) -> None:
    """The driver hears Ctrl-C where it hears it with one worker, which `test_killed` shows; a group costs a minute."""
    folder = command.folder / "two-workers-interrupted"
    arguments = ("run", str(study), "--output", str(folder))
    text = command.kill_at("] align ", *arguments, number=signal.SIGINT, before=partial(wait_for_a_step, folder))
    assert text.splitlines()[-1] == "raydaa: interrupted; the same command goes on from here"
    assert command.wait_until_gone() == {}
    done(command.run(*arguments))
    assert table(folder) == table(quiet)
