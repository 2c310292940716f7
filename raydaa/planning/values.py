"""What a plan says, as numbers: bytes, tokens, steps, hours, and money in whatever currency the study names prices."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrialCount:
    """Trials of one method from one model."""

    count: int
    title: str
    init: str


@dataclass(frozen=True)
class StepPlan:
    """Optimizer steps of all trials; ``sized`` where the data are known: else only shares of them mean anything."""

    planned: int
    without_early_stopping: int
    trials_finished: int
    sized: bool
    brackets: int = 0
    brackets_of_one: int = 0  # in which early stopping can stop nothing
    finalists: int = 0  # trials after the sweep, and their steps
    finalist_steps: int = 0


@dataclass(frozen=True)
class DataPlan:
    """Rows of each table, rows rejected by reason, and what else was noticed, by what it is."""

    rows: dict[str, int]
    rejected: dict[str, int]
    notes: dict[str, int]


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on each worker while it trains ``tokens`` tokens at a time; ``most_tokens`` fit the card."""

    workers: int
    zero_stage: int | None
    precision: str
    tokens: int
    weights: float
    gradients: float
    optimizer: float
    activations: float
    parameters: int
    card: str | None = None
    card_memory: float | None = None
    most_tokens: int | None = None

    @property
    def total(self) -> float:
        """Of all of it."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class WorkPlan:
    """Operations of each part; GPU-hours at ``utilisation`` of a card's rate, where one is named."""

    operations: dict[str, float]
    card: str | None = None
    utilisation: float | None = None
    hours: dict[str, float] = field(default_factory=dict)
    total_hours: float | None = None
    price: float | None = None  # of a GPU-hour
    cost: float | None = None


@dataclass(frozen=True)
class SavingPlan:
    """Checkpoints of a whole trial: how many, bytes of each, and the share of its time that they take."""

    checkpoints: int
    checkpoint_bytes: float
    trial_minutes: float
    share: float
    bytes_per_second: float


@dataclass(frozen=True)
class JudgingPlan:
    """Of one benchmark with a judge behind an endpoint; tokens are the most that are sent, and about as many as it
    writes."""

    benchmark: str
    games: int
    models: int
    sent: float
    written: float
    cost: float | None
    more_prompts: int | None = None  # that one order each would judge at the same price, where the source has them


@dataclass(frozen=True)
class DiskPlan:
    """Bytes at most, and what lies there then."""

    peak: float
    trained_models: int
    handed_over: int
    waiting_checkpoints: int
    running_trials: int


@dataclass(frozen=True)
class Plan:
    """All that can be said of a study beforehand; ``problems`` say what could not be looked at, or would stop it."""

    name: str
    trials: tuple[TrialCount, ...]
    steps: StepPlan
    data: DataPlan | None
    problems: tuple[str, ...]
    memory: MemoryPlan | None = None
    work: WorkPlan | None = None
    saving: SavingPlan | None = None
    judging: tuple[JudgingPlan, ...] = ()
    disk: DiskPlan | None = None
