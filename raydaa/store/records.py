"""What the files of a study's folder say, each as a value; `raydaa.store.study_folder` knows where they lie."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from raydaa.store.artifacts import key_of

# Names of metrics that a trial logs.
LOSS, ACCURACY, MARGIN = "validation/loss", "validation/rewards/accuracies", "validation/rewards/margins"
PREFERENCE_LOSS = "validation/preference_loss"  # what trials are compared by before anybody has judged them
TOKENS = "tokens_per_microbatch"  # fewer than a trial began with where there was no room for them
# Why a trial is over that did not finish.
LOST = "the others of its bracket were better at a rung"
SPENT = "the budget was spent"


class TrialState(StrEnum):
    """Where a trial is; the value is what stands in records and tables."""

    WAITING = "waiting"  # for workers, or at a rung for the others of its bracket
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"  # others of its bracket were better, or the budget was spent
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do for the trial."""
        return self in (TrialState.FINISHED, TrialState.STOPPED, TrialState.FAILED)

    def to(self, state: "TrialState") -> "TrialState":
        """``state``, if a trial may come there from here; AssertionError for a step that there is not."""
        assert state in TRANSITIONS[self], f"no trial goes from {self} to {state}"
        return state


TRANSITIONS: dict[TrialState, frozenset[TrialState]] = {
    # One that waits is over at once where its folder says so, where its bracket has decided, or its worker had died.
    TrialState.WAITING: frozenset(TrialState),
    TrialState.RUNNING: frozenset(TrialState) - {TrialState.RUNNING},
    TrialState.FINISHED: frozenset(),
    TrialState.STOPPED: frozenset(),
    TrialState.FAILED: frozenset(),
}


@dataclass(frozen=True)
class TrialRecord:
    """How a trial stands, in its folder. One that is to be trained again has the record of one that waits."""

    state: TrialState
    reason: str = ""  # why it is over, where it did not finish
    retry: bool = False  # whether the next run tries again
    steps: int | None = None
    seconds: float | None = None  # of training
    removed: str | None = None  # the hash of the weights of a model that is no longer kept


@dataclass(frozen=True)
class Point:
    """One trial's place in the search space."""

    init: str
    method: str
    parameters: dict[str, Any]
    learning_rate: float
    seed: int
    sft_weight: float = 0.0
    align_weight: float = 1.0
    fraction: float = 1.0
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def setting(self) -> str:
        """The key of everything but the seed: seeds are repetitions of one setting."""
        return key_of(**{name: value for name, value in vars(self).items() if name != "seed"})


@dataclass(frozen=True)
class Trial:
    """One trial of a study.

    The method's traits are written down, so that nobody needs its code to read the results.
    """

    key: str
    method: str  # what the method calls itself
    title: str  # the method, marked where it is normalised otherwise than its own form
    ranking: str
    state: TrialState
    steps: int
    label: str
    point: Point
    finalist: bool = False  # trained after the sweep, with a seed that its setting was not chosen by


@dataclass(frozen=True)
class FinalistsRecord:
    """The best setting of each method at fresh seeds, as it was chosen when models were last measured; ``search`` is
    the key of what it was chosen from."""

    search: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class TrialList:
    """The trials of a sweep that is over, in the study's order."""

    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class SweepRecord:
    """A sweep while it runs, with the workers of a trial and the trials at a time."""

    workers: int
    slots: int
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class ProgressRecord:
    """The last line that was told, ``at`` a time of the clock; the stage's seconds so far, and those left if known."""

    stage: str
    line: str
    elapsed: float
    left: float | None
    at: float


@dataclass(frozen=True)
class ReferenceCost:
    """Reference log-probabilities under one start: for which methods, of how many pairs, and what they took to make
    (None: the store does not say)."""

    start: str
    methods: tuple[str, ...]
    pairs: int
    worker_seconds: float | None = None


@dataclass(frozen=True)
class CostRecord:
    """The worker group of a trial, and what the reference store took."""

    gpus: float  # of a worker
    workers: int
    price_per_gpu_hour: float | None = None
    references: tuple[ReferenceCost, ...] = ()


@dataclass(frozen=True)
class BudgetRecord:
    """Tokens per micro-batch, as measured for what ``key`` stands for."""

    key: str
    tokens: int


@dataclass(frozen=True)
class SlotRecord:
    """How long a trial's worker slot stood before its first step."""

    seconds: float


@dataclass(frozen=True)
class DataReport:
    """What was read of the sources: rows read and kept by table, rejected by reason, notes, columns nobody read."""

    read: dict[str, int]
    rows: dict[str, int]
    rejected: dict[str, int]
    notes: dict[str, int]
    unread: dict[str, list[str]] = field(default_factory=dict)

    def with_more(self, other: "DataReport") -> "DataReport":
        """With what is said of other tables; notes of one kind are counted together."""
        notes = {note: self.notes.get(note, 0) + count for note, count in other.notes.items()}
        return DataReport(
            self.read | other.read,
            self.rows | other.rows,
            self.rejected | other.rejected,
            self.notes | notes,
            self.unread | other.unread,
        )


@dataclass(frozen=True)
class HarnessScore:
    """Of one metric of a task."""

    value: float
    standard_error: float | None


HarnessScores = dict[str, dict[str, HarnessScore]]  # by task and metric


@dataclass(frozen=True)
class HarnessRecord:
    """What the LM Evaluation Harness says of each model."""

    models: dict[str, HarnessScores] = field(default_factory=dict)


@dataclass(frozen=True)
class VersionsRecord:
    """Versions of packages by name, of each run that had others than those before."""

    runs: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class FormatRecord:
    """Of the whole folder."""

    format: int
