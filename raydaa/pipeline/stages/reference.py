"""The stage reference: log-probabilities under the models that trials start from, shared by all studies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydaa.algorithms.catalog import method_class
from raydaa.pipeline.context import Context
from raydaa.pipeline.named_models import ModelRef
from raydaa.pipeline.prepared import Prepared, prepared_data
from raydaa.pipeline.stage import Batch, OutputStage
from raydaa.pipeline.stages.sft import starts
from raydaa.pipeline.token_budget import scoring_of
from raydaa.store.artifacts import read_json
from raydaa.store.mirror import REFERENCE
from raydaa.store.output import Output
from raydaa.store.records import CostRecord, ReferenceCost
from raydaa.store.study_folder import COST
from raydaa.training import launch

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

    start: ModelRef
    parts: tuple[str, ...]
    mismatched: bool
    methods: tuple[str, ...]
    output: Output


def references(context: Context) -> dict[str, Reference]:
    """Where the log-probabilities under each start lie."""
    pairs: dict[str, Path] = {}
    mismatched: dict[str, Path] = {}
    for work in context.once(_reference_work):
        (mismatched if work.mismatched else pairs)[work.start.name] = work.output.folder
    return {name: Reference(folder, mismatched.get(name)) for name, folder in pairs.items()}


def depends_on(
    start: ModelRef, prepared: Prepared, precision: str, parts: tuple[str, ...] = ALL, mismatched: bool = False
) -> dict[str, Any]:
    """What reference log-probabilities depend on: weights, the tokenized pairs, and the arithmetic."""
    data = prepared.keys["pairs"]
    return {"weights": start.hash, "data": data, "parts": parts, "precision": precision, "mismatched": mismatched}


def _reference_work(context: Context) -> list[ReferenceWork]:
    """The held-out pairs under each start, and all pairs where its trials need them."""
    search = context.settings.search
    models = context.once(starts)
    work: list[ReferenceWork] = []
    for name in sorted({name for method in search.methods for name in search.starts_of(method)}):
        classes = [method_class(method.name) for method in search.methods if name in search.starts_of(method)]
        needing = tuple(sorted({cls.name for cls in classes if cls.needs_reference}))
        estimating = tuple(sorted({cls.name for cls in classes if cls.needs_kl}))
        work.append(_work(context, models[name], ALL if needing else HELD_OUT, False, needing))
        if estimating:
            work.append(_work(context, models[name], ALL, True, estimating))
    return work


def _work(
    context: Context, start: ModelRef, parts: tuple[str, ...], mismatched: bool, methods: tuple[str, ...]
) -> ReferenceWork:
    key_parts = depends_on(start, context.once(prepared_data), context.settings.training.precision, parts, mismatched)
    output = Output(context.study.cache / "reference", key_parts, shared=REFERENCE)
    return ReferenceWork(start, parts, mismatched, methods, output)


def _batches(context: Context) -> Iterator[Batch[ReferenceWork]]:
    """Each start by itself: all processes ask one model."""
    for work in context.once(_reference_work):
        which = " of mismatched responses" if work.mismatched else ""
        yield Batch(f"log-probabilities{which} under {work.start.name}", [work])


def _make(context: Context, missing: Sequence[ReferenceWork]) -> str:
    prepared = context.once(prepared_data)
    scoring = scoring_of(context, context.settings.training.attention)
    for work in missing:
        tables = {name: str(prepared.table(name)) for name in work.parts}

        def fill(folder: Path, work: ReferenceWork = work, tables: dict[str, str] = tables) -> None:
            task = launch.ReferenceTask(str(work.start.folder), tables, folder, scoring, work.mismatched)
            launch.reference(task, context.one_process)

        work.output.seal(fill)
    return f"{sum(_num_pairs(context, work) for work in missing)} pairs"


def _num_pairs(context: Context, work: ReferenceWork) -> int:
    return sum(context.once(prepared_data).rows[part] for part in work.parts)


def _write_costs(context: Context) -> None:
    """What the log-probabilities took to make, which taking them from the cache saves."""
    costs: list[ReferenceCost] = []
    for work in context.once(_reference_work):
        if work.methods:
            spent = read_json(work.output.folder / COST) or {}
            costs.append(ReferenceCost(work.start.name, work.methods, _num_pairs(context, work), **spent))
    workers = context.workers
    price = context.settings.scaling.price_per_gpu_hour
    context.at.costs.write(CostRecord(workers.gpus, workers.count, price, tuple(costs)))


STAGE = OutputStage(
    name="reference",
    writes="log-probabilities of all pairs under each start",
    depends_on="the start's weights, tokenized pairs, precision",
    engine="Ray Train workers",
    after=("sft",),
    batches=_batches,
    make=_make,
    finish=_write_costs,
)
