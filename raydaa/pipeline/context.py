"""What every stage needs to know: the study, its folders, its workers."""

import sys
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from raydaa.accelerators import name_there
from raydaa.algorithms.catalog import is_own, method_class
from raydaa.algorithms.method import Method
from raydaa.cluster import Resources, counted
from raydaa.judging.language import Spent
from raydaa.pipeline.starts import Start
from raydaa.progress import Progress
from raydaa.settings.study import StudySettings
from raydaa.settings.training import TrainingSettings
from raydaa.store.artifacts import read_json, write_json
from raydaa.store.mirror import STUDY, Mirror, MirrorError
from raydaa.store.study_folder import StudyFolder
from raydaa.study import Study
from raydaa.training.launch import Workers
from raydaa.training.reference import Scoring

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
        return int(read_json(self.at.budget)["tokens"])

    def keep_to(self, tokens: int | None) -> None:
        """What was measured was too much for a trial: also a run that takes the study up again begins with less."""
        known = None if tokens is None else read_json(self.at.budget)
        if tokens is not None and known is not None and tokens < known["tokens"]:
            write_json(self.at.budget, {**known, "tokens": tokens})

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
    def workers(self) -> Workers:
        """The worker group of one trial."""
        scaling = self.settings.scaling
        # A cluster that grows may have no GPU yet.
        on_gpu = self.resources.gpus or scaling.accelerator
        gpus = (1.0 if on_gpu else 0.0) if scaling.gpus_per_worker == "auto" else scaling.gpus_per_worker
        return Workers(
            count=scaling.workers,
            cpus=scaling.cpus_per_worker,
            gpus=gpus,
            accelerator=self.accelerator,
            threads=scaling.cpus_per_worker,
            storage=str(self.at.ray),
            max_failures=scaling.max_failures,
            methods=own_methods(self.settings),
            here=self.resources.local and not gpus,
            together=bool(gpus) and any(self._groups_on(node, gpus) for node in self.resources.nodes),
        )

    def _groups_on(self, node: tuple[float, float], gpus: float) -> int:
        """How many of a trial's worker groups one node holds whole."""
        scaling, (cpus_there, gpus_there) = self.settings.scaling, node
        return int(min(cpus_there / scaling.cpus_per_worker, gpus_there / gpus) / scaling.workers)

    @property
    def accelerator(self) -> str | None:
        """What the cluster calls the accelerator that the study names; that name itself where none is there yet."""
        wanted = self.settings.scaling.accelerator
        return None if wanted is None else name_there(wanted, self.resources.accelerators) or wanted

    @property
    def alone(self) -> Workers:
        """The worker group of a stage that has the machine to itself."""
        if self.workers.gpus or not self.resources.local:
            return self.workers
        return replace(self.workers, threads=max(self.workers.threads, self.resources.cpus // self.workers.count))

    @property
    def sharing(self) -> Workers:
        """As `alone`, where workers share nothing but the work: on one's own CPUs one does it all, without a group."""
        if not self.workers.here:
            return self.alone
        return replace(self.workers, count=1, threads=max(self.workers.threads, self.resources.cpus))

    @property
    def engine(self) -> str:
        """``auto`` resolved: plain torch for one CPU worker, DeepSpeed for more or for GPUs."""
        if self.settings.scaling.engine != "auto":
            return self.settings.scaling.engine
        return "deepspeed" if self.workers.count > 1 or self.workers.gpus else "torch"

    @property
    def zero_stage(self) -> int:
        """ZeRO's stage; one worker has nobody to share weights with, and stage 3 leaks where actors are reused."""
        scaling = self.settings.scaling
        return min(scaling.zero_stage, 2) if self.workers.count == 1 and not scaling.cpu_offload else scaling.zero_stage

    @property
    def apart(self) -> bool:
        """Whether the weights of every model are spread over the workers of a group: no GPU need hold one whole."""
        return self.engine == "deepspeed" and self.zero_stage == 3 and not self.workers.here

    def scoring(self, attention: str = "auto") -> Scoring:
        """How a model that is not trained is asked for log-probabilities."""
        settings = self.settings
        return Scoring(
            precision=settings.training.precision,
            budget=self.tokens_of(settings.training),
            attention=attention,
            trust_remote_code=settings.model.trust_remote_code,
            apart=self.apart,
            cpu_offload=settings.scaling.cpu_offload,
        )

    @property
    def concurrent_trials(self) -> int:
        """Trials at a time: as many as fit now, or what the study asks for where more nodes may come."""
        asked = self.settings.scaling.concurrent_trials
        if asked == "auto":
            return self.room
        return min(asked, self.room) if self.resources.local else asked

    @property
    def room(self) -> int:
        """Worker groups that fit into the cluster at a time."""
        each = self.workers
        if each.together:
            return sum(self._groups_on(node, each.gpus) for node in self.resources.nodes)
        room = int(self.resources.cpus / (each.cpus * each.count))
        if each.gpus:
            room = min(room, int(self.resources.gpus / (each.gpus * each.count)))
        return room


class TrialsNow:
    """A study's `concurrent_trials` as nodes come and go, counted again every few seconds."""

    def __init__(self, context: Context) -> None:
        self.context, self.counted_at = context, time.monotonic()

    def __call__(self) -> int:
        if not self.context.resources.local and time.monotonic() - self.counted_at > RECOUNT_SECONDS:
            self.context, self.counted_at = replace(self.context, resources=counted(local=False)), time.monotonic()
        return self.context.concurrent_trials


def own_methods(settings: StudySettings) -> tuple[type[Method], ...]:
    """The study's methods that are not built in; their packages travel to the workers with their code."""
    from ray.cloudpickle import register_pickle_by_value

    found = tuple({m.name: method_class(m.name) for m in settings.search.methods if is_own(m.name)}.values())
    for cls in found:
        package = sys.modules[cls.__module__.partition(".")[0]]
        if package.__name__ != "__main__":  # that one always travels
            register_pickle_by_value(package)
    return found
