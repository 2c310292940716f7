"""A stage is a value: outputs, each a sealed folder whose name says what it depends on, and a function that makes them.

What every stage would otherwise do by hand stands here: what is whole is left alone, what other studies made comes back
from the mirror, what is missing is made, and two lines say so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from raydaa.pipeline.context import Context
from raydaa.store.output import Output

KEPT = "kept from before"


@dataclass(frozen=True)
class Stage:
    """What a stage is, for people: `raydaa stages` and the documentation's table are printed from these."""

    name: str
    writes: str
    depends_on: str
    engine: str
    after: tuple[str, ...] = ()  # the stages whose outputs it needs


class Work(Protocol):
    """What a stage does for one output."""

    @property
    def output(self) -> Output:
        """What comes of it."""


Some = TypeVar("Some", bound=Work)


def missing(work: Sequence[Some]) -> list[Some]:
    """What is still to be done."""
    return [one for one in work if not one.output.done]


def ensure(
    context: Context,
    stage: Stage,
    about: str,
    work: Sequence[Some],
    make: Callable[[list[Some]], str],
    tell_kept: bool = True,
) -> None:
    """Do what of ``work`` is not done, by ``make``, which says in a few words what it did."""
    context.progress.start(stage.name, about)
    left = missing(work)
    if context.mirror is not None and (elsewhere := [one for one in left if one.output.shared is not None]):
        for one in elsewhere:
            context.mirror.pull(one.output.folder, f"{one.output.shared}/{one.output.key}")
        left = missing(left)
    told = make(left)
    for one in work:  # another study may have made it and told no mirror
        if one.output.shared is not None:
            context.send(one.output.folder, f"{one.output.shared}/{one.output.key}")
    kept = len(work) - len(left)
    if kept and tell_kept:
        told = f"{told}; {kept} {KEPT}" if len(work) > 1 else KEPT
    context.progress.end(told)
