"""What a study's trials took, and what early stopping and the store of reference log-probabilities saved."""

from dataclasses import dataclass

from raydaa.evaluation.figures import BenchmarkInfo
from raydaa.results import TrialResults
from raydaa.store.artifacts import read_json
from raydaa.store.records import CostRecord, ReferenceCost
from raydaa.training.spec import RunSpec
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
    judging: tuple[BenchmarkInfo, ...] = ()  # benchmarks that a language model judged


def costs(results: TrialResults) -> Costs:
    """From the study folder's records; without them a trial has one worker."""
    record = results.at.costs.read() or CostRecord(gpus=0, workers=1)
    gpus = record.gpus
    hours = (gpus or 1) / 3600  # of a worker's second
    known = [cost for cost in record.references if cost.worker_seconds is not None]
    references = known if len(known) == len(record.references) else None
    methods = [_cost(results, method, hours, record.workers, references) for method in results.methods]
    making = None if references is None else hours * sum(cost.worker_seconds or 0 for cost in references)
    price = record.price_per_gpu_hour if gpus else None
    judging = tuple(benchmark for benchmark in results.benchmarks if benchmark.sent)
    return Costs("GPU-hours" if gpus else "worker-hours", methods, making, price, judging)


def _cost(
    results: TrialResults, method: str, hours: float, workers: int, references: list[ReferenceCost] | None
) -> Cost:
    rows = [row for row in results if row.title == method]
    stopped = [row for row in rows if row.stopped_early]
    left = [(row.seconds or 0) * (row.trial.steps / row.training.step - 1) for row in stopped if row.training.step]
    saved = None if references is None else sum(_found(results, row, references) for row in rows)
    return Cost(
        method=method,
        trials=len(rows),
        stopped=len(stopped),
        hours=hours * workers * sum(row.seconds or 0 for row in rows),
        tokens_per_second=median(row.training.tokens_per_second for row in rows),
        mfu=median(row.training.mfu for row in rows),
        padding=median(row.training.padding for row in rows),
        peak_memory=max((peak for row in rows if (peak := row.training.peak_memory) is not None), default=None),
        attention=", ".join(sorted({name for row in rows if (name := row.training.attention) is not None})) or "–",
        saved_by_stopping=hours * workers * sum(left),
        saved_by_reference=None if saved is None else hours * saved,
    )


def _found(results: TrialResults, row: TrialRow, references: list[ReferenceCost]) -> float:
    """Worker-seconds of scoring that a trial did not need."""
    spec = read_json(results.at.trial(row.key).spec)
    if spec is None:
        return 0.0
    pairs = row.training.step * RunSpec.from_json(spec).recipe.training.batch_size
    seconds = 0.0
    for cost in references:
        if cost.start == row.init and row.method in cost.methods:
            seconds += pairs * (cost.worker_seconds or 0) / cost.pairs
    return seconds
