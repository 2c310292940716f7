"""What a study file may say: typed, frozen, every key known, every value checked before any work."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raydaa.settings.base import Range, Settings, values_of, wrong
from raydaa.settings.data import HELD_OUT, DataSettings, PocketSettings
from raydaa.settings.evaluation import CHOSEN, EvaluationSettings, GenerationSettings
from raydaa.settings.scaling import ScalingSettings
from raydaa.settings.search import FRACTION, NO_GRID, SearchSettings
from raydaa.settings.sft import SftSettings
from raydaa.settings.training import TrainingSettings


class ModelSettings(Settings):
    source: str
    config: str | None = None  # a config.json for `plan`, where the model itself is not at hand
    trust_remote_code: bool = False


class StorageSettings(Settings):
    study: str | None = None
    cache: str | None = None
    mirror: str | None = None
    keep: Literal["front", "all"] = "front"  # models of finished trials: the best of each method and the Pareto front


class MlflowSettings(Settings):
    uri: str | None = None  # of a server or a local store; None: mlflow.db in the study folder
    experiment: str | None = None  # None: the study's name


class WandbSettings(Settings):
    project: str
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"


class TrackingSettings(Settings):
    """Experiment trackers that hear of every trial, beside TensorBoard."""

    mlflow: MlflowSettings | None = None
    wandb: WandbSettings | None = None


class StudySettings(Settings):
    """The whole file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    model: ModelSettings
    pocket: PocketSettings = PocketSettings()
    data: DataSettings
    sft: SftSettings = SftSettings()
    training: TrainingSettings = TrainingSettings()
    search: SearchSettings
    scaling: ScalingSettings = ScalingSettings()
    generation: GenerationSettings = GenerationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    tracking: TrackingSettings = TrackingSettings()
    storage: StorageSettings = StorageSettings()

    @model_validator(mode="after")
    def check(self) -> "StudySettings":
        workers = self.scaling.workers
        sizes = {"training.batch_size": self.training.batch_size}
        if self.sft.batch_size is not None:
            sizes["sft.batch_size"] = self.sft.batch_size
        for index, method in enumerate(self.search.methods):
            for size in values_of(method.training.get("batch_size", ())):
                sizes[f"search.methods[{index}].training.batch_size"] = size
        for setting, size in sizes.items():
            if size % workers:
                raise wrong(f"{size} does not divide over {workers} workers; use a multiple of {workers}", setting)
        if self.search.sampler == "grid" and isinstance(self.data.preferences.fraction, Range):
            raise wrong(NO_GRID, FRACTION)
        self._check_engine()
        self._check_sft()
        self._check_judges()
        return self

    def _check_engine(self) -> None:
        if self.scaling.shards(on_gpus=False) and self.scaling.zero_stage == 0 and self.in_bf16:
            # DeepSpeed's bf16 stage 0 takes a phantom optimizer step at initialisation.
            raise wrong("0 trains wrongly in bf16; use zero_stage 1, 2 or 3, or precision fp32", "scaling.zero_stage")
        if self.scaling.cpu_offload and self.scaling.engine == "torch":
            raise wrong("is DeepSpeed's; use engine deepspeed or auto", "scaling.cpu_offload")

    def _check_judges(self) -> None:
        evaluation = self.evaluation
        for setting, judge in evaluation.judges:
            if judge.of_pocket_world and self.data.preferences.source != "pocket":
                raise wrong("the pocket rule knows the pocket world only; use none, or a function of your own", setting)
        bare = self.data.prompts.source == "pocket"
        for benchmark in evaluation.benchmarks:
            judged = benchmark.judged_by(evaluation.judge).judges
            if judged and bare and benchmark.source is None and evaluation.baseline_of(benchmark) == CHOSEN:
                remedy = f"use data.prompts.source {HELD_OUT}"
                raise wrong(f"{CHOSEN!r} needs prompts with a preferred response; {remedy}", "evaluation.baseline")

    @property
    def models_beside(self) -> tuple[str, ...]:
        """Models that are judged beside the trials."""
        named = self.evaluation.models
        return named if named is not None else ("sft",) if self.data.sft else ()

    @property
    def in_bf16(self) -> bool:
        """Whether anything trains in bf16."""
        overrides = [value for m in self.search.methods for value in values_of(m.training.get("precision", ()))]
        return "bf16" in (self.training.precision, *overrides)

    def _check_sft(self) -> None:
        """Nothing may start from, or be compared with, an SFT checkpoint that has no data."""
        if self.data.sft:
            return
        places = {f"search.methods[{i}].init": method.init or () for i, method in enumerate(self.search.methods)}
        places |= {"search.init": self.search.init} if not all(places.values()) else {}
        places |= {"evaluation.models": self.models_beside, "evaluation.baseline": self.evaluation.judged_models}
        for setting, names in places.items():
            for name in names:
                if name == "sft" or name.startswith("sft:"):
                    raise wrong(f"{name!r} needs data.sft, which is missing; name its source, or use base", setting)
