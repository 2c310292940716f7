"""The stage reference: log-probabilities under the models that trials start from, shared by all studies."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydaa.algorithms.catalog import method_class
from raydaa.pipeline.context import Context, Prepared
from raydaa.pipeline.stage import ensure
from raydaa.pipeline.starts import Start
from raydaa.settings.search import MethodSettings
from raydaa.store.artifacts import read_json
from raydaa.store.mirror import REFERENCE
from raydaa.store.output import Output
from raydaa.store.records import CostRecord, ReferenceCost
from raydaa.training import launch

HELD_OUT = ("validation",)
ALL = ("train", *HELD_OUT)


@dataclass(frozen=True)
class Reference:
    """Folders with the log-probabilities under one start: of the pairs (of the held-out ones at least), and of prompts
    with the next pair's responses; None where no method needs these."""

    pairs: Path
    mismatched: Path | None


def reference(context: Context, starts: dict[str, Start]) -> dict[str, Reference]:
    """Log-probabilities of the held-out pairs under each start, and of all pairs where its trials need them, in the
    shared cache."""
    search = context.settings.search
    costs: list[ReferenceCost] = []

    def begun(methods: Iterable[MethodSettings]) -> set[str]:
        return {name for method in methods for name in search.starts_of(method)}

    def needing(trait: str) -> list[MethodSettings]:
        return [method for method in search.methods if getattr(method_class(method.name), trait)]

    def whole(name: str, methods: list[MethodSettings], mismatched: bool = False) -> Path:
        folder = _reference(context, starts[name], ALL, mismatched)
        names = sorted({method_class(method.name).name for method in methods})
        pairs = sum(context.prepared.rows[part] for part in ALL)
        made = read_json(folder / launch.COST) or {}
        costs.append(ReferenceCost(name, tuple(names), pairs, **made))
        return folder

    found, pairs, mismatched = {}, needing("needs_reference"), needing("needs_kl")
    for name in sorted(begun(search.methods)):
        found[name] = Reference(
            whole(name, pairs) if name in begun(pairs) else _reference(context, starts[name], HELD_OUT),
            whole(name, mismatched, True) if name in begun(mismatched) else None,
        )
    workers, price = context.workers, context.settings.scaling.price_per_gpu_hour
    context.at.costs.write(CostRecord(workers.gpus, workers.count, price, tuple(costs)))
    return found


@dataclass(frozen=True)
class _Logps:
    """Log-probabilities of some tables' pairs."""

    output: Output


def depends_on(
    start: Start, prepared: Prepared, precision: str, parts: tuple[str, ...] = ALL, mismatched: bool = False
) -> dict[str, Any]:
    """What reference log-probabilities depend on: weights, the tokenized pairs, and the arithmetic."""
    data = prepared.keys["pairs"]
    return {"weights": start.hash, "data": data, "parts": parts, "precision": precision, "mismatched": mismatched}


def _reference(context: Context, start: Start, parts: tuple[str, ...], mismatched: bool = False) -> Path:
    settings, prepared = context.settings, context.prepared
    tables = {name: str(prepared.table(name)) for name in parts}
    scoring = context.scoring(settings.training.attention)

    def fill(folder: Path) -> None:
        task = launch.ReferenceTask(str(start.folder), tables, folder, scoring, mismatched)
        launch.reference(task, context.one_process)

    def make(missing: list[_Logps]) -> str:
        for logps in missing:
            logps.output.seal(fill)
        return f"{sum(prepared.rows[name] for name in parts)} pairs"

    given = depends_on(start, prepared, settings.training.precision, parts, mismatched)
    work = _Logps(Output(context.study.cache / "reference", given, shared=REFERENCE))
    which = " of mismatched responses" if mismatched else ""
    ensure(context, "reference", f"log-probabilities{which} under {start.name}", [work], make)
    return work.output.folder
