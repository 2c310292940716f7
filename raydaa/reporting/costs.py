"""What a study's trials took, and what early stopping and the store of reference log-probabilities saved."""

from dataclasses import dataclass
from typing import Any

from raydaa.results import Judged, TrialResults
from raydaa.store.artifacts import read_json
from raydaa.store.study_folder import TrialState
from raydaa.trial_row import TrialRow, median


@dataclass(frozen=True)
class Cost:
    """Of one method; hours are those of GPUs, or of workers where there are none."""

    method: str
    trials: int
    stopped: int
    hours: float
    tokens_per_second: float | None  # the median trial's, as those below
    mfu: float | None
    padding: float | None
    peak_memory: float | None  # bytes; of any trial
    attention: str  # of its trials
    saved_by_stopping: float
    saved_by_reference: float | None  # what passes of their own over the reference model would have taken


@dataclass(frozen=True)
class Costs:
    """Of all methods, in the study's order. ``reference`` is what making the store took, in the same hours.

    None: what was found in the store does not say what it took to make.
    """

    unit: str
    methods: list[Cost]
    reference: float | None
    price: float | None = None  # of a GPU-hour
    judging: tuple[Judged, ...] = ()  # benchmarks that a language model judged


def costs(results: TrialResults) -> Costs:
    """From the study folder's records; without them a trial has one worker."""
    found = read_json(results.at.costs) or {}
    gpus, references = found.get("gpus", 0), found.get("references", [])
    hours = (gpus or 1) / 3600  # of a worker's second
    known = references if all("worker_seconds" in each for each in references) else None
    methods = [_cost(results, method, hours, found.get("workers", 1), known) for method in results.methods]
    made = None if known is None else hours * sum(each["worker_seconds"] for each in known)
    price = found.get("price_per_gpu_hour") if gpus else None
    judging = tuple(each for each in results.benchmarks if each.sent)
    return Costs("GPU-hours" if gpus else "worker-hours", methods, made, price, judging)


def _cost(
    results: TrialResults, method: str, hours: float, workers: int, references: list[dict[str, Any]] | None
) -> Cost:
    rows = [row for row in results if row.method == method]
    stopped = [row for row in rows if row.state == TrialState.STOPPED]
    left = [(row.seconds or 0) * (row.steps / row.step - 1) for row in stopped if row.step]
    found = None if references is None else sum(_found(results, row, references) for row in rows)
    return Cost(
        method=method,
        trials=len(rows),
        stopped=len(stopped),
        hours=hours * workers * sum(row.seconds or 0 for row in rows),
        tokens_per_second=median(row.tokens_per_second for row in rows),
        mfu=median(row.mfu for row in rows),
        padding=median(row.padding for row in rows),
        peak_memory=max((row.peak_memory for row in rows if row.peak_memory is not None), default=None),
        attention=", ".join(sorted({row.attention for row in rows if row.attention is not None})) or "–",
        saved_by_stopping=hours * workers * sum(left),
        saved_by_reference=None if found is None else hours * found,
    )


def _found(results: TrialResults, row: TrialRow, references: list[dict[str, Any]]) -> float:
    """Worker-seconds of scoring that a trial did not need."""
    settings = read_json(results.at.trial(row.key).spec) or {}
    pairs = row.step * settings.get("batch_size", 0)
    return sum(
        pairs * each["worker_seconds"] / each["pairs"]
        for each in references
        if each["start"] == row.init and row.method in each["methods"]
    )
