"""What lies in a study's folder and in a trial's: every path, every state, every record."""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from raydaa.store.artifacts import read_json, write_json

# Names of metrics that a trial logs.
LOSS, ACCURACY, MARGIN = "validation/loss", "validation/rewards/accuracies", "validation/rewards/margins"
PREFERENCE_LOSS = "validation/preference_loss"  # what trials are compared by before anybody has judged them
TOKENS = "tokens_per_microbatch"  # fewer than a trial began with where there was no room for them


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

    @staticmethod
    def from_json(value: dict[str, Any]) -> "TrialRecord":
        """Back from JSON."""
        return TrialRecord(**{**value, "state": TrialState(value["state"])})


@dataclass(frozen=True)
class TrialFolder:
    """A trial's folder, named by its key."""

    path: Path

    @property
    def spec(self) -> Path:
        """The run as it was begun, or goes on with fewer tokens at a time."""
        return self.path / "settings.json"

    @property
    def metrics(self) -> Path:
        """A JSON line for each step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """Of a trial that is not over."""
        return self.path / "checkpoint"

    @property
    def model(self) -> Path:
        """Sealed weights, of a trial that finished."""
        return self.path / "model"

    @property
    def ran_out(self) -> Path:
        """Left by the worker of a group that was out of memory."""
        return self.path / "out-of-memory"

    @property
    def start(self) -> Path:
        """How long its worker slot stood before its first step."""
        return self.path / "start.json"

    def read_record(self) -> TrialRecord | None:
        """How it stands; None where it never began."""
        value = read_json(self.path / "record.json")
        return None if value is None else TrialRecord.from_json(value)

    def write_record(self, record: TrialRecord) -> None:
        """In the place of the one before."""
        write_json(self.path / "record.json", asdict(record))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The metrics logged so far, in order of steps; a line that was being written is left out."""
        logged: list[dict[str, Any]] = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines() if self.metrics.exists() else []:
            try:
                metrics = json.loads(line)
            except ValueError:
                continue
            if logged and metrics["step"] <= logged[-1]["step"]:
                continue
            logged.append(metrics)
        return logged


@dataclass(frozen=True)
class StudyFolder:
    """A study's folder."""

    path: Path

    def trial(self, key: str) -> TrialFolder:
        """The trial with this key."""
        return TrialFolder(self.trials / key)

    @property
    def trials(self) -> Path:
        """A folder for each trial."""
        return self.path / "trials"

    @property
    def trial_list(self) -> Path:
        """The trials of a sweep that is over, in the study's order."""
        return self.path / "trials.json"

    @property
    def sweep(self) -> Path:
        """Trials and their states while the sweep runs."""
        return self.path / "sweep.json"

    @property
    def settings(self) -> Path:
        """The study file with every default."""
        return self.path / "study.yaml"

    @property
    def lock(self) -> Path:
        """Held by the one run at work here."""
        return self.path / ".lock"

    @property
    def log(self) -> Path:
        """What Ray and its libraries said."""
        return self.path / "logs" / "driver.log"

    @property
    def latest(self) -> Path:
        """The last line that was told, for who looks from elsewhere."""
        return self.path / "progress.json"

    @property
    def data_report(self) -> Path:
        """What was read of the sources, and what was rejected."""
        return self.path / "data.json"

    @property
    def rejects(self) -> Path:
        """Rows that were left out, and why."""
        return self.path / "rejects.jsonl"

    @property
    def versions(self) -> Path:
        """The packages of each run that had others than those before."""
        return self.path / "versions.json"

    @property
    def budget(self) -> Path:
        """The tokens per micro-batch that were measured."""
        return self.path / "budget.json"

    @property
    def costs(self) -> Path:
        """Worker groups, and what reference log-probabilities took to make."""
        return self.path / "costs.json"

    @property
    def evaluation(self) -> Path:
        """Every figure of quality and distance."""
        return self.path / "evaluation.json"

    @property
    def harness(self) -> Path:
        """What the LM Evaluation Harness says."""
        return self.path / "harness.json"

    @property
    def harness_scores(self) -> Path:
        """A sealed folder for each model that its tasks were put to."""
        return self.path / "harness"

    @property
    def optuna(self) -> Path:
        """The searches as Optuna keeps them."""
        return self.path / "optuna.db"

    @property
    def tensorboard(self) -> Path:
        """A folder of events for each trial that is over."""
        return self.path / "tensorboard"

    @property
    def ray(self) -> Path:
        """Ray's own folder, while it runs."""
        return self.path / "ray"

    def sft(self, key: str) -> TrialFolder:
        """An SFT run, which has no record."""
        return TrialFolder(self.path / "sft" / key)

    @property
    def generations(self) -> Path:
        """Responses of a model, sealed."""
        return self.path / "generations"

    @property
    def scores(self) -> Path:
        """Log-probabilities of responses under another model, sealed."""
        return self.path / "scores"

    @property
    def verdicts(self) -> Path:
        """A judge's verdicts on a model's responses, sealed."""
        return self.path / "verdicts"

    @property
    def rewards(self) -> Path:
        """A reward model's scores of responses, sealed."""
        return self.path / "rewards"

    def best(self, method: str) -> Path:
        """The best model of a method, handed over."""
        return self.path / "best" / method

    @property
    def report(self) -> Path:
        """Page, figures and tables."""
        return self.path / "report"
