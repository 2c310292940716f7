"""Workers of a group of two are interrupted and die, each rank once: the study ends as it would have."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from raydaa.results import TrialResults
from tests.command import Command, wait_for
from tests.studies import done, micro, table, written

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(command: Command) -> Path:
    """One trial that goes on after a rung: the group goes home between and comes back."""
    tree = micro(name="two-workers", scaling={"workers": 2, "engine": "deepspeed", "zero_stage": 2})
    tree["search"] = {
        "learning_rate": 1.0e-3,
        "methods": [{"name": "dpo", "beta": 0.1}],
        "early_stopping": {"rungs": [0.3]},
    }
    tree["evaluation"] = {"judge": "none", "models": []}
    return written(command.folder, tree)


def kill(command: Command, rank: int, folder: Path, trained: str, process: subprocess.Popen[str]) -> None:
    """SIGKILL to the worker of ``rank``, as soon as files like ``trained`` say that its group trains."""

    def living() -> list[int]:
        log = (folder / "logs" / "driver.log").read_text()
        told = {int(pid) for pid in re.findall(rf"pid=(\d+)\) world_rank={rank},", log)}
        return list(told & command.processes().keys())

    wait_for(lambda: list(folder.glob(trained)), process)
    os.kill(wait_for(living, process)[0], signal.SIGKILL)


def test_interrupted_and_each_rank_killed_once(command: Command, study: Path) -> None:
    quiet, folder = command.folder / "two-workers", command.folder / "two-workers-killed"
    done(command.run("run", str(study), "--output", str(quiet)))
    assert [(row.state, row.step) for row in TrialResults.load(quiet)] == [("finished", 20)]
    text = command.kill_at("loss", "run", str(study), "--output", str(folder), number=signal.SIGINT)
    assert text.splitlines()[-1] == "raydaa: interrupted; the same command goes on from here"
    assert command.wait_until_gone() == {}
    with command.start("run", str(study), "--output", str(folder)) as process:
        kill(command, 1, folder, "sft/*/metrics.jsonl", process)
        kill(command, 0, folder, "trials/*/metrics.jsonl", process)
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert table(folder) == table(quiet)
