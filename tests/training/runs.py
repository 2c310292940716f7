"""What the tests of training share."""

from collections.abc import Callable

from raydaa.training.loop import Run
from raydaa.training.spec import RunSpec

Make = Callable[..., RunSpec]


def losses(spec: RunSpec, steps: int | None = None) -> list[float]:
    run = Run(spec)
    return [run.train_step()["loss"] for _ in range(steps or run.total_steps)]
