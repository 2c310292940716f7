"""Whatever is killed, the same command goes on and ends with the undisturbed run's table."""

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.command import Command, Started, wait_for
from tests.faults.test_damaged import alter
from tests.studies import done, table

pytestmark = pytest.mark.slow


def test_killed_again_and_again_ends_with_the_same_table(command: Command, undisturbed: tuple[Path, str]) -> None:
    """Ctrl-C in SFT, SIGKILL in the sweep, then of Ray's process on this machine, then while responses are generated,
    then to the end.

    A second run in the folder is refused while the first is at work. Every checkpoint that the first leaves is damaged.
    """
    folder = command.folder / "killed"
    arguments = ("run", str(command.folder / "micro.yaml"), "--output", str(folder))
    text = command.kill_at("% of the examples", *arguments, number=signal.SIGINT)
    assert text.splitlines()[-1] == "raydaa: interrupted; the same command goes on from here"
    assert command.wait_until_gone() == {}
    refused: list[subprocess.CompletedProcess[str]] = []

    def checkpoints() -> list[Path]:
        return list(folder.glob("trials/*/checkpoint/*/engine.pt"))

    def meanwhile(process: Started) -> None:
        refused.append(command.run(*arguments))
        wait_for(checkpoints, process)

    text = command.kill_at("trials over;", *arguments, before=meanwhile)
    assert "raydaa: the run died without a word (see " in text
    assert refused[0].returncode == 2
    assert refused[0].stderr == f"raydaa: {folder}: another run is at work in this study folder; wait for it\n"
    assert command.wait_until_gone() == {}
    assert checkpoints()
    for checkpoint in checkpoints():
        alter(checkpoint)
    told = done(command.run("status", str(folder))).splitlines()
    assert "not running; its last line, " in told[0]
    assert told[1].startswith("trials: ")
    kill_raylet(command, *arguments)
    text = command.kill_at("] generate ", *arguments)
    assert command.wait_until_gone() == {}
    assert text.count("kept from before") == 3  # prepare, sft, reference
    done(command.run(*arguments))
    assert table(folder) == table(undisturbed[0])


def kill_raylet(command: Command, *arguments: str) -> None:
    """Nobody starts another one on this machine: the run must end instead of waiting for it."""
    with command.start(*arguments) as process:
        for line in process.stdout:
            if "] align " in line:
                break
        raylet = next(pid for pid in command.processes() if psutil.Process(pid).name() == "raylet")
        os.kill(raylet, signal.SIGKILL)
        output = process.stdout.read()
        process.wait(120)
    assert process.returncode == 1, output
    assert output.splitlines()[-1].endswith("the same command goes on from here)"), output
    assert command.wait_until_gone() == {}


def test_killed_workers_go_on(command: Command, undisturbed: tuple[Path, str]) -> None:
    """One actor dies in training, one at a rung, between two calls: the same trials finish and lose."""
    folder = command.folder / "workers-killed"
    arguments = ("run", str(command.folder / "micro.yaml"), "--output", str(folder))
    titles = ["ray::ResourceTrainable.train", "ray::OneWorkerTrial"]
    output = command.kill_some(titles, *arguments)
    assert "failed" not in output
    assert table(folder) == table(undisturbed[0])
