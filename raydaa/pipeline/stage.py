"""A stage is a value: outputs, each a sealed folder whose name says what it depends on, and a function that makes them.

What every stage would otherwise do by hand stands here: what is whole is left alone, what other studies made comes back
from the mirror, what is missing is made, and two lines say so.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from raydaa.pipeline.context import Context
from raydaa.store.output import Output

KEPT = "kept from before"


@dataclass(frozen=True)
class Count:
    """How many of a stage's outputs are there."""

    done: int
    total: int

    @property
    def complete(self) -> bool:
        """Whether nothing is left to make."""
        return self.done == self.total


@dataclass(frozen=True)
class StageDescription:
    """What a stage is, for people: `raydaa stages` and the documentation's table are printed from these."""

    name: str
    writes: str
    depends_on: str
    engine: str
    after: tuple[str, ...] = ()  # the stages whose outputs it needs


@dataclass(frozen=True, kw_only=True)
class Stage(StageDescription):
    """A stage of a study.

    ``first``: it needs no cluster, and runs while that starts; ``elsewhere``: its work is done by machines that are not
    the cluster's, and comes after what needs those; ``last``: it comes after everything, when the cluster is not needed
    any more.
    """

    first: bool = False
    elsewhere: bool = False
    last: bool = False

    def run(self, context: Context) -> str | None:
        """Make what is missing; the name of the stage to go back to, where something that was there is needed again."""
        raise NotImplementedError

    def count(self, context: Context) -> Count:
        """What is there, without making anything; the stages that it comes after are complete."""
        raise NotImplementedError


@dataclass(frozen=True)
class Recorded:
    """What a stage did, in a few words, and the stage to go back to, where something that was there is needed again."""

    summary: str
    again: str | None = None


@dataclass(frozen=True, kw_only=True)
class RecordStage(Stage):
    """A stage that keeps records in the study's folder, which are written anew whenever they can say more.

    ``about`` says what it is going to do, ``record`` does it, and goes on by what its records say.
    """

    about: Callable[[Context], str]
    record: Callable[[Context], Recorded]
    look: Callable[[Context], Count]

    def run(self, context: Context) -> str | None:
        """Write the records."""
        context.progress.start(self.name, self.about(context))
        recorded = self.record(context)
        context.send()
        context.progress.end(recorded.summary)
        return recorded.again

    def count(self, context: Context) -> Count:
        """By its own function."""
        return self.look(context)


class Work(Protocol):
    """What a stage does for one output."""

    @property
    def output(self) -> Output:
        """What comes of it."""


SomeWork = TypeVar("SomeWork", bound=Work)


@dataclass(frozen=True)
class Batch(Generic[SomeWork]):
    """Outputs that are made together; ``about`` says what they are, in the line with which that begins."""

    about: str
    work: Sequence[SomeWork]


@dataclass(frozen=True, kw_only=True)
class OutputStage(Stage, Generic[SomeWork]):
    """A stage that makes sealed folders.

    ``batches`` lists them; where it is a generator it goes on when the batch before is made, or, when only looking,
    whatever is there. ``make`` makes what of a batch is missing and says in a few words what it did; ``finish`` writes
    what is said of all outputs together.
    """

    batches: Callable[[Context], Iterable[Batch[SomeWork]]]
    make: Callable[[Context, Sequence[SomeWork]], str]
    finish: Callable[[Context], None] | None = None

    def run(self, context: Context) -> None:
        """Make what is missing."""
        for batch in self.batches(context):
            self._ensure(context, batch)
        if self.finish is not None:
            self.finish(context)

    def count(self, context: Context) -> Count:
        """Ask each output whether it is there."""
        work = [item for batch in self.batches(context) for item in batch.work]
        return Count(sum(item.output.done for item in work), len(work))

    def _ensure(self, context: Context, batch: Batch[SomeWork]) -> None:
        if not batch.work:
            return
        context.progress.start(self.name, batch.about)
        left = missing(batch.work)
        if context.mirror is not None and (shared := [item for item in left if item.output.shared is not None]):
            for item in shared:
                context.mirror.pull(item.output.folder, f"{item.output.shared}/{item.output.key}")
            left = missing(left)
        summary = self.make(context, left) if left else ""
        if left and not self.first:  # until then the folder does not say what study it is of
            context.send()
        for item in batch.work:  # another study may have made it and told no mirror
            if item.output.shared is not None:
                context.send(item.output.folder, f"{item.output.shared}/{item.output.key}")
        kept = len(batch.work) - len(left)
        if kept:
            summary = f"{summary}; {kept} {KEPT}" if summary else KEPT
        context.progress.end(summary)


def missing(work: Sequence[SomeWork]) -> list[SomeWork]:
    """What is still to be done."""
    return [item for item in work if not item.output.done]
