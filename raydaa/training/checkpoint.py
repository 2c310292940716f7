"""Resume checkpoints: the newest whole one of a run, replaced in one step."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from raydaa.artifacts import intact, seal
from raydaa.training.engine import rank, world_size


def _barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def save(folder: Path, step: int, fill: Callable[[Path], None]) -> None:
    """Write checkpoint ``step`` by ``fill`` (called on every worker), then forget older ones."""
    temporary, final = folder / f".step-{step:08d}", folder / f"step-{step:08d}"
    if rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    _barrier()
    fill(temporary)
    _barrier()
    if rank() == 0:
        seal(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for older in folder.iterdir():
            if older != final:
                shutil.rmtree(older, ignore_errors=True)
    _barrier()


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; damaged ones are passed over."""
    for candidate in sorted(folder.glob("step-*"), reverse=True):
        if intact(candidate):
            return candidate
    return None


def step_of(checkpoint: Path) -> int:
    """The step a checkpoint was taken after."""
    return int(checkpoint.name.removeprefix("step-"))
