"""What every stage needs to know: the study, its folders, its workers."""

import sys
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from raydaa.algorithms.catalog import is_custom, method_class
from raydaa.algorithms.method import Method
from raydaa.cluster import Resources, counted
from raydaa.compat.ray import send_with_code
from raydaa.judging.judge import Spent
from raydaa.pipeline.resolve import Resolved, resolve
from raydaa.pipeline.starts import Start
from raydaa.progress import Progress
from raydaa.settings.study import StudySettings
from raydaa.settings.training import TrainingSettings
from raydaa.store.mirror import STUDY, Mirror, MirrorError
from raydaa.store.study_folder import StudyFolder
from raydaa.study import Study
from raydaa.training.reference import Scoring
from raydaa.training.workers import Workers

RECOUNT_SECONDS = 2.0
ON_CPU = 1024  # beyond it larger products gain nothing; a fixed number keeps results the same from run to run


@dataclass(frozen=True)
class Prepared:
    """What the prepare stage leaves: the base model, the tables, and what is in them."""

    base: Start
    tokenizer: Path  # folder, with the chat template that the study speaks
    folders: dict[str, Path]  # of the table groups pairs, sft, prompts, prompts.<benchmark>
    keys: dict[str, str]
    rows: dict[str, int]

    def table(self, name: str) -> Path:
        """The Parquet file of table ``name`` (train, validation, sft, prompts, prompts.<benchmark>)."""
        return self.folders.get(name, self.folders["pairs"]) / f"{name.partition('.')[0]}.parquet"


@dataclass(frozen=True)
class Context:
    """One run of a study on one cluster."""

    study: Study
    progress: Progress
    resources: Resources
    prepared: Prepared

    def tokens_of(self, training: TrainingSettings) -> int:
        """Tokens per micro-batch: what the study says, else what was measured, else a fixed number for CPUs."""
        if training.tokens_per_microbatch != "auto":
            return training.tokens_per_microbatch
        if not self.workers.gpus:
            return ON_CPU
        measured = self.at.budget.read()
        assert measured is not None, "the budget is measured before anything trains"
        return measured.tokens

    def keep_to(self, tokens: int | None) -> None:
        """What was measured was too much for a trial: also a run that takes the study up again begins with less."""
        measured = None if tokens is None else self.at.budget.read()
        if tokens is not None and measured is not None and tokens < measured.tokens:
            self.at.budget.write(replace(measured, tokens=tokens))

    @property
    def settings(self) -> StudySettings:
        """The study's settings."""
        return self.study.settings

    @property
    def folder(self) -> Path:
        """Where the study's results lie."""
        return self.study.folder

    @property
    def at(self) -> StudyFolder:
        """Where in it each lies."""
        return StudyFolder(self.folder)

    @cached_property
    def spending(self) -> dict[str, Spent]:
        """What each language model that judges was asked for in this run: their limits are the run's."""
        return {}

    @cached_property
    def mirror(self) -> Mirror | None:
        """The object store that results are sent to, where the study names one."""
        url = self.settings.storage.mirror
        return None if url is None else Mirror(url)

    def send(self, folder: Path | None = None, name: str = STUDY) -> bool:
        """Send what is finished to the mirror, of the study or another folder; False, and told, where it was not."""
        if self.mirror is None:
            return False
        try:
            self.mirror.push(folder or self.folder, name)
        except MirrorError as error:
            self.progress.line(f"mirror    could not be written: {error}")
            return False
        return True

    @cached_property
    def resolved(self) -> Resolved:
        """What the settings come to on this cluster."""
        return resolve(self.settings, self.resources)

    @cached_property
    def workers(self) -> Workers:
        """The worker group of one trial."""
        scaling = self.settings.scaling
        return Workers(
            **vars(self.resolved.group),
            threads=scaling.cpus_per_worker,
            storage=str(self.at.ray),
            max_failures=scaling.max_failures,
            methods=custom_methods(self.settings),
        )

    @property
    def whole_machine(self) -> Workers:
        """The worker group of a stage that has the machine to itself."""
        if self.workers.gpus or not self.resources.local:
            return self.workers
        return replace(self.workers, threads=max(self.workers.threads, self.resources.cpus // self.workers.count))

    @property
    def one_process(self) -> Workers:
        """As `whole_machine`, where workers share nothing but the work: on one's own CPUs one does it all, without a
        group."""
        if not self.workers.in_process:
            return self.whole_machine
        return replace(self.workers, count=1, threads=max(self.workers.threads, self.resources.cpus))

    def scoring(self, attention: str = "auto") -> Scoring:
        """How a model that is not trained is asked for log-probabilities."""
        settings = self.settings
        return Scoring(
            precision=settings.training.precision,
            budget=self.tokens_of(settings.training),
            attention=attention,
            trust_remote_code=settings.model.trust_remote_code,
            apart=self.resolved.apart,
            cpu_offload=settings.scaling.cpu_offload,
        )


class LiveSlots:
    """How many trials run at a time as nodes come and go, counted again every few seconds."""

    def __init__(self, context: Context) -> None:
        self.settings, self.local, self.slots = context.settings, context.resources.local, context.resolved.slots
        self.counted_at = time.monotonic()

    def __call__(self) -> int:
        if not self.local and time.monotonic() - self.counted_at > RECOUNT_SECONDS:
            self.slots, self.counted_at = resolve(self.settings, counted(local=False)).slots, time.monotonic()
        return self.slots


def custom_methods(settings: StudySettings) -> tuple[type[Method], ...]:
    """The study's methods that are not built in; their packages travel to the workers with their code."""
    found = tuple({m.name: method_class(m.name) for m in settings.search.methods if is_custom(m.name)}.values())
    for cls in found:
        package = sys.modules[cls.__module__.partition(".")[0]]
        if package.__name__ != "__main__":  # that one always travels
            send_with_code(package)
    return found
