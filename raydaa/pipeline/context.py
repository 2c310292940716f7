"""What every stage needs to know: the study, its folders, its workers."""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from raydaa.artifacts import make_folder, model_hash
from raydaa.cluster import Resources
from raydaa.data import pocket
from raydaa.progress import Progress
from raydaa.settings import StudySettings
from raydaa.study import Study, StudyError
from raydaa.training.launch import Workers


@dataclass(frozen=True)
class Start:
    """A model that trials start from, or that is judged beside them."""

    name: str
    folder: Path
    hash: str

    @staticmethod
    def at(name: str, folder: Path) -> "Start":
        """The model in ``folder``, known by its weights."""
        return Start(name, folder, model_hash(folder))


@dataclass(frozen=True)
class Prepared:
    """What the prepare stage leaves: the base model, the tables, and what is in them."""

    base: Start
    tables: Path
    key: str
    rows: dict[str, int]

    def table(self, name: str) -> Path:
        """The Parquet file of table ``name``."""
        return self.tables / f"{name}.parquet"


@dataclass(frozen=True)
class Context:
    """One run of a study on one cluster."""

    study: Study
    progress: Progress
    resources: Resources
    prepared: Prepared

    @property
    def settings(self) -> StudySettings:
        """The study's settings."""
        return self.study.settings

    @property
    def folder(self) -> Path:
        """Where the study's results lie."""
        return self.study.folder

    @cached_property
    def workers(self) -> Workers:
        """The worker group of one trial."""
        scaling = self.settings.scaling
        gpus = (1.0 if self.resources.gpus else 0.0) if scaling.gpus_per_worker == "auto" else scaling.gpus_per_worker
        return Workers(
            count=scaling.workers,
            cpus=scaling.cpus_per_worker,
            gpus=gpus,
            accelerator=scaling.accelerator,
            threads=scaling.cpus_per_worker,
            storage=str(self.folder / "ray"),
            max_failures=scaling.max_failures,
        )

    @property
    def alone(self) -> Workers:
        """The worker group of a stage that has the machine to itself."""
        if self.workers.gpus or not self.resources.local:
            return self.workers
        threads = max(self.workers.threads, self.resources.cpus // self.workers.count)
        return Workers(**{**asdict(self.workers), "threads": threads})

    @property
    def engine(self) -> str:
        """``auto`` resolved: plain torch for one CPU worker, DeepSpeed for more or for GPUs."""
        if self.settings.scaling.engine != "auto":
            return self.settings.scaling.engine
        return "deepspeed" if self.workers.count > 1 or self.workers.gpus else "torch"

    @property
    def concurrent_trials(self) -> int:
        """Trials at a time: what the cluster's workers allow, or what the study asks for."""
        asked, each = self.settings.scaling.concurrent_trials, self.workers
        if asked != "auto":
            return asked
        room = self.resources.cpus // int(each.cpus * each.count)
        if each.gpus:
            room = min(room, int(self.resources.gpus // (each.gpus * each.count)))
        return max(1, room)


def cache_folder(study: Study) -> Path:
    """Where studies share prepared tables, reference log-probabilities and built-in models."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(study.settings.storage.cache or f"{home}/raydaa").expanduser().absolute()


def local_model(source: str) -> Path:
    """A folder with the model: ``source`` itself, or what the hub's client keeps of it."""
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise StudyError(f"{source}: is not a model folder; it has no config.json")
        return folder.absolute()
    if source.startswith(("/", ".")) or source.count("/") != 1:
        raise StudyError(f"{source}: there is no such model folder")
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(source, allow_patterns=patterns))
    except Exception as error:  # offline, unknown, gated: the client has a class for each
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StudyError(f"{source}: the model can't be fetched: {reason}") from None


def base_model(study: Study) -> Path:
    """The study's base model as a folder."""
    if study.settings.model.source != "pocket":
        return local_model(study.settings.model.source)
    seed = study.settings.pocket.seed
    folder = cache_folder(study) / "models" / f"pocket-{pocket.model_key(seed)}"
    make_folder(folder, lambda temporary: pocket.write_model(temporary, seed))
    return folder


def starts_of_trials(settings: StudySettings) -> Iterable[str]:
    """Names of all models that trials start from, each once."""
    return dict.fromkeys(name for method in settings.search.methods for name in method.init or settings.search.init)
