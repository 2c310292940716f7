"""The stage reference: log-probabilities under the models that trials start from, shared by all studies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydaa.algorithms.catalog import method_class
from raydaa.pipeline.context import Context, Prepared
from raydaa.pipeline.stage import Stage, ensure
from raydaa.pipeline.starts import Start
from raydaa.store.artifacts import read_json
from raydaa.store.mirror import REFERENCE
from raydaa.store.output import Output
from raydaa.store.records import CostRecord, ReferenceCost
from raydaa.store.study_folder import COST
from raydaa.training import launch

STAGE = Stage(
    name="reference",
    writes="log-probabilities of all pairs under each start",
    depends_on="the start's weights, tokenized pairs, precision",
    engine="Ray Train workers",
    after=("sft",),
)


HELD_OUT = ("validation",)
ALL = ("train", *HELD_OUT)


@dataclass(frozen=True)
class Reference:
    """Folders with the log-probabilities under one start: of the pairs (of the held-out ones at least), and of prompts
    with the next pair's responses; None where no method needs these."""

    pairs: Path
    mismatched: Path | None


@dataclass(frozen=True)
class ReferenceWork:
    """Log-probabilities of the pairs in ``parts`` under one start; ``methods`` are those that need the training pairs'.

    ``mismatched``: of prompts with the next pair's responses.
    """

    start: Start
    parts: tuple[str, ...]
    mismatched: bool
    methods: tuple[str, ...]
    output: Output


def reference_work(context: Context, starts: dict[str, Start]) -> list[ReferenceWork]:
    """What there is to do: the held-out pairs under each start, and all pairs where its trials need them."""
    search, work = context.settings.search, []

    def from_start(name: str, trait: str) -> tuple[str, ...]:
        classes = [method_class(m.name) for m in search.methods if name in search.starts_of(m)]
        return tuple(sorted({cls.name for cls in classes if getattr(cls, trait)}))

    for name in sorted({name for method in search.methods for name in search.starts_of(method)}):
        needing = from_start(name, "needs_reference")
        work.append(_work(context, starts[name], ALL if needing else HELD_OUT, False, needing))
        if estimating := from_start(name, "needs_kl"):
            work.append(_work(context, starts[name], ALL, True, estimating))
    return work


def _work(
    context: Context, start: Start, parts: tuple[str, ...], mismatched: bool, methods: tuple[str, ...]
) -> ReferenceWork:
    given = depends_on(start, context.prepared, context.settings.training.precision, parts, mismatched)
    output = Output(context.study.cache / "reference", given, shared=REFERENCE)
    return ReferenceWork(start, parts, mismatched, methods, output)


def reference(context: Context, starts: dict[str, Start]) -> dict[str, Reference]:
    """Log-probabilities under each start, in the shared cache."""
    costs, folders = list[ReferenceCost](), dict[str, dict[bool, Path]]()
    for work in reference_work(context, starts):
        _ensure(context, work)
        folders.setdefault(work.start.name, {})[work.mismatched] = work.output.folder
        if work.methods:
            made = read_json(work.output.folder / COST) or {}
            pairs = sum(context.prepared.rows[part] for part in work.parts)
            costs.append(ReferenceCost(work.start.name, work.methods, pairs, **made))
    workers, price = context.workers, context.settings.scaling.price_per_gpu_hour
    context.at.costs.write(CostRecord(workers.gpus, workers.count, price, tuple(costs)))
    return {name: Reference(found[False], found.get(True)) for name, found in folders.items()}


def depends_on(
    start: Start, prepared: Prepared, precision: str, parts: tuple[str, ...] = ALL, mismatched: bool = False
) -> dict[str, Any]:
    """What reference log-probabilities depend on: weights, the tokenized pairs, and the arithmetic."""
    data = prepared.keys["pairs"]
    return {"weights": start.hash, "data": data, "parts": parts, "precision": precision, "mismatched": mismatched}


def _ensure(context: Context, work: ReferenceWork) -> None:
    prepared = context.prepared
    tables = {name: str(prepared.table(name)) for name in work.parts}
    scoring = context.scoring(context.settings.training.attention)

    def fill(folder: Path) -> None:
        task = launch.ReferenceTask(str(work.start.folder), tables, folder, scoring, work.mismatched)
        launch.reference(task, context.one_process)

    def make(missing: list[ReferenceWork]) -> str:
        for one in missing:
            one.output.seal(fill)
        return f"{sum(prepared.rows[name] for name in work.parts)} pairs"

    which = " of mismatched responses" if work.mismatched else ""
    ensure(context, STAGE, f"log-probabilities{which} under {work.start.name}", [work], make)
