"""Resume checkpoints: the newest whole one of a run, replaced in one step.

A checkpoint of an 8B model is a hundred gigabytes that are forgotten within the hour: nobody reads it to seal it. Its
files are on disk before it gets its name, and one that was written to afterwards is not used.
"""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch.distributed as dist

from raydaa.store.artifacts import MANIFEST, marks_below, read_json, write_json
from raydaa.training.collectives import from_first, rank, world_size

SHARE = 0.05  # of a run's time that may go into checkpoints which only a crash would need
NOTHING = 10.0  # seconds that nobody thinks about
RATE = 0.5e9  # bytes a second that a machine writes to a shared file system, until a run has seen its own
SEEN_SECONDS = 90.0  # until all machines see what one wrote: network file systems keep what they know for a minute


class Pace:
    """When a run saves a checkpoint of about ``size`` bytes: after so many minutes, and only if no more than `SHARE`
    of its time goes into all of them."""

    def __init__(self, minutes: float, size: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = 60 * minutes
        self.clock = clock
        self.expected = size / RATE
        self.begun = self.last = clock()
        self.spent = 0.0

    def due(self) -> bool:
        """Whether the time has come."""
        now = self.clock()
        return now - self.last >= self.seconds and self.spent + self.expected <= SHARE * (now - self.begun)

    def worth(self, seconds: float) -> bool:
        """Whether a trial that waits at a rung keeps what it trained in so many seconds since its last checkpoint.

        About half of those that wait go on: all would write it, and half read it, or train it again.
        """
        return self.expected < NOTHING or 0.5 * seconds > 1.5 * self.expected

    def note(self, began: float) -> None:
        """A checkpoint was saved that was begun at ``began``."""
        self.last = self.clock()
        self.expected = self.last - began
        self.spent += self.expected


def foreseen(seconds: float, rungs: Sequence[float], minutes: float, size: float) -> list[float]:
    """When a trial of so many seconds of training, which goes on at all of its ``rungs`` (shares of them), saves
    checkpoints of ``size`` bytes: seconds of training by then."""
    saved: list[float] = []
    trained = now = 0.0

    def clock() -> float:
        return now

    for rung in [*rungs, 1.0]:
        pace = Pace(minutes, size, clock)  # of the workers that train from rung to rung
        while trained < rung * seconds:
            trained = trained + 1
            now = now + 1
            at_rung = rung < 1 and trained >= rung * seconds
            if trained < seconds and (pace.worth(trained - (saved or [0.0])[-1]) if at_rung else pace.due()):
                saved.append(trained)
                began = now
                now = now + pace.expected
                pace.note(began)
    return saved


def _barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def save(folder: Path, step: int, fill: Callable[[Path], None]) -> None:
    """Write checkpoint ``step`` by ``fill`` (called on every worker, each writes files of its own), then forget older
    ones."""
    temporary = folder / f".step-{step:08d}"
    final = folder / f"step-{step:08d}"
    if rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    _barrier()
    fill(temporary)
    _barrier()  # a worker that still writes has files there under names that they do not keep
    _flush(temporary)
    _barrier()
    if rank() == 0:
        write_json(temporary / MANIFEST, marks_below(temporary))
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for older in folder.iterdir():
            if older != final:
                shutil.rmtree(older, ignore_errors=True)
    _barrier()


def _flush(folder: Path) -> None:
    """What this machine wrote is on disk."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole, as the first worker finds it: all of them go on from the same."""
    newest = from_first(_latest(folder) if rank() == 0 else None)
    deadline = time.monotonic() + SEEN_SECONDS
    while newest is not None and not (newest / MANIFEST).exists() and time.monotonic() < deadline:
        time.sleep(1)
    return newest


def _latest(folder: Path) -> Path | None:
    for candidate in newest_first(folder):
        if read_json(candidate / MANIFEST) == marks_below(candidate):
            return candidate
    return None


def newest_first(folder: Path) -> list[Path]:
    """All checkpoints, whole or not."""
    return sorted(folder.glob("step-*"), reverse=True)


def step_of(checkpoint: Path) -> int:
    """The step a checkpoint was taken after."""
    return int(checkpoint.name.removeprefix("step-"))
