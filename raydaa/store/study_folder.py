"""Where everything lies in a study's folder and in a trial's: every path, and every file as the value that it holds."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from raydaa.errors import InputError
from raydaa.evaluation.figures import Evaluation
from raydaa.store.artifacts import read_json, write_json
from raydaa.store.plain import to_plain, typed_value
from raydaa.store.records import (
    BudgetRecord,
    CostRecord,
    DataReport,
    FinalistsRecord,
    FormatRecord,
    HarnessRecord,
    ProgressRecord,
    SlotRecord,
    SweepRecord,
    TrialList,
    TrialRecord,
    VersionsRecord,
)

MODEL = "model"  # in a trial's folder
RUN_STATE = "run.json"  # in a checkpoint: its step, and who can read it
COST = "cost.json"  # beside log-probabilities: what making them took, and taking them from here saves
OUTPUT = "output.json"  # in the sealed folder of a stage that has one record to leave
PAGE = "index.html"  # of a report
CARD = "raydaa.json"  # beside weights that are handed over: settings and figures
FORMAT = 1  # of study folders: counted up by whoever changes what a file of theirs is called or says
Record = TypeVar("Record")


@dataclass(frozen=True)
class RecordFile(Generic[Record]):
    """A JSON file that holds one record, replaced as a whole."""

    path: Path
    kind: type[Record]

    def read(self) -> Record | None:
        """What it says; None where there is none, or it was cut off. InputError where it says something else."""
        value = read_json(self.path)
        try:
            return None if value is None else typed_value(self.kind, value)
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{self.path}: was not written by this version ({error}); use another folder") from None

    def write(self, record: Record) -> None:
        """In the place of the one before."""
        write_json(self.path, to_plain(record))

    def exists(self) -> bool:
        """Whether it was ever written."""
        return self.path.exists()

    def remove(self) -> None:
        """As if it never was."""
        self.path.unlink(missing_ok=True)


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
        return self.path / MODEL

    @property
    def ran_out(self) -> Path:
        """Left by the worker of a group that was out of memory."""
        return self.path / "out-of-memory"

    @property
    def record(self) -> RecordFile[TrialRecord]:
        """How it stands; None where it never began."""
        return RecordFile(self.path / "record.json", TrialRecord)

    @property
    def slot(self) -> RecordFile[SlotRecord]:
        """What its worker slot did before; None where nobody has noted it."""
        return RecordFile(self.path / "start.json", SlotRecord)

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

    def check_format(self) -> None:
        """InputError where the folder was written by a version whose files are others."""
        record = self.format.read()
        if record is None and not self.settings.exists():
            return  # nothing was written yet
        if record is None or record.format != FORMAT:
            written = "before study folders had a format" if record is None else f"in format {record.format}"
            raise InputError(f"{self.path}: was written {written}, and this version reads {FORMAT}; use another folder")

    def write_format(self) -> None:
        """A folder that is written to says how to read it."""
        if not self.format.exists():
            self.format.write(FormatRecord(FORMAT))

    @property
    def format(self) -> RecordFile[FormatRecord]:
        """The number by which versions know each other's folders."""
        return RecordFile(self.path / "format.json", FormatRecord)

    def trial(self, key: str) -> TrialFolder:
        """The trial with this key."""
        return TrialFolder(self.trials / key)

    @property
    def trials(self) -> Path:
        """A folder for each trial."""
        return self.path / "trials"

    @property
    def trial_list(self) -> RecordFile[TrialList]:
        """The trials of a sweep that is over; none before."""
        return RecordFile(self.path / "trials.json", TrialList)

    @property
    def finalists(self) -> RecordFile[FinalistsRecord]:
        """What is trained after the sweep; none where the study wants none, or before it was chosen."""
        return RecordFile(self.path / "finalists.json", FinalistsRecord)

    @property
    def sweep(self) -> RecordFile[SweepRecord]:
        """Trials and their states while the sweep runs."""
        return RecordFile(self.path / "sweep.json", SweepRecord)

    @property
    def budget(self) -> RecordFile[BudgetRecord]:
        """The tokens per micro-batch that were measured."""
        return RecordFile(self.path / "budget.json", BudgetRecord)

    @property
    def costs(self) -> RecordFile[CostRecord]:
        """Worker groups, and what reference log-probabilities took to make."""
        return RecordFile(self.path / "costs.json", CostRecord)

    @property
    def data_report(self) -> RecordFile[DataReport]:
        """What was read of the sources, and what was rejected."""
        return RecordFile(self.path / "data.json", DataReport)

    @property
    def evaluation(self) -> RecordFile[Evaluation]:
        """Every figure of quality and distance."""
        return RecordFile(self.path / "evaluation.json", Evaluation)

    @property
    def harness(self) -> RecordFile[HarnessRecord]:
        """What the LM Evaluation Harness says."""
        return RecordFile(self.path / "harness.json", HarnessRecord)

    @property
    def progress(self) -> RecordFile[ProgressRecord]:
        """The last line that was told, for who looks from elsewhere."""
        return RecordFile(self.path / "progress.json", ProgressRecord)

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
    def rejects(self) -> Path:
        """Rows that were left out, and why."""
        return self.path / "rejects.jsonl"

    @property
    def versions(self) -> RecordFile[VersionsRecord]:
        """The packages of each run that had others than those before."""
        return RecordFile(self.path / "versions.json", VersionsRecord)

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

    def of_stage(self, name: str) -> Path:
        """A sealed folder for each output of a stage, where the stage has no other place."""
        return self.path / name

    @property
    def questions(self) -> Path:
        """What models were asked and compared with, sealed."""
        return self.path / "questions"

    @property
    def outputs(self) -> Path:
        """Responses in the file formats of the benchmarks' own tools."""
        return self.path / "outputs"

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
        """The best model of a method, by its title, handed over."""
        return self.path / "best" / re.sub(r"[^\w.-]+", "-", method).strip("-")

    @property
    def report(self) -> Path:
        """Page, figures and tables."""
        return self.path / "report"

    @property
    def page(self) -> Path:
        """The report's page."""
        return self.report / PAGE

    @property
    def mlflow(self) -> Path:
        """MLflow's store, where the study names none."""
        return self.path / "mlflow.db"

    @property
    def wandb(self) -> Path:
        """Runs as Weights & Biases keeps them."""
        return self.path / "wandb"
