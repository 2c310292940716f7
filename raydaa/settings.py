"""What a study file may say: typed, frozen, every key known, every value checked before any work."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from raydaa.evaluation_settings import (
    CHOSEN,
    HELD_OUT,
    EvaluationSettings,
    GenerationSettings,
    Json,
    PromptSource,
    share_or_whole,
)
from raydaa.search_settings import (
    FRACTION,
    NO_GRID,
    Natural,
    NonNegative,
    PositiveFloat,
    PositiveInt,
    Range,
    SearchSettings,
    Settings,
    Share,
    Shares,
    TrainingSettings,
    values_of,
    wrong,
)

PREFERRED = "preferences.chosen"  # as a source of SFT examples: what the training pairs prefer


class ModelSettings(Settings):
    source: str
    config: str | None = None  # a config.json for `plan`, where the model itself is not at hand
    trust_remote_code: bool = False


HEAD = 32  # of the built-in world's attention: the smallest that vLLM has CPU kernels for


class PocketSettings(Settings):
    """Sizes of the built-in offline world; used where a source is ``pocket``."""

    seed: Natural = 0
    hidden_size: Annotated[PositiveInt, Field(multiple_of=HEAD)] = 3 * HEAD
    num_sft: PositiveInt = 4000
    num_pairs: PositiveInt = 2000
    num_validation: PositiveInt = 400
    num_prompts: PositiveInt = 300
    noise: NonNegative = 1.0


class ChatTemplateSettings(Settings):
    """The template that is spoken instead of the model's own, and what every rendering of it is given."""

    file: str | None = None  # Jinja
    arguments: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], Json] = Field(
        default_factory=dict
    )  # e.g. {enable_thinking: false}


class SftSource(Settings):
    source: str
    split: str | None = "train"  # null: a column of that name is one like any other
    columns: dict[str, str] = Field(default_factory=dict)
    weight: PositiveFloat = 1.0  # how often each example stands in the mixture: 0.5 takes half of them, 2 all twice
    unique: bool = False  # of preferences.chosen: each response once, and none that another pair rejects

    @model_validator(mode="after")
    def check(self) -> "SftSource":
        if self.unique and self.source != PREFERRED:
            raise wrong(f"tells preferred responses from rejected ones; only {PREFERRED} has both", "unique")
        return self


def several(value: object) -> object:
    """One source, or a list of them."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Mixture = Annotated[tuple[SftSource, ...], BeforeValidator(several)]


class PreferenceSource(Settings):
    source: str
    train: str | None = "train"  # null: the column split is not looked into
    validation: str | Annotated[float, Field(gt=0, lt=1)] = 0.05
    fraction: Shares = (1.0,)
    columns: dict[str, str] = Field(default_factory=dict)
    unique: bool = False  # each comparison once, however often it stands in the source


class DataSettings(Settings):
    sft: Mixture = ()
    preferences: PreferenceSource
    prompts: PromptSource = PromptSource()
    chat_template: ChatTemplateSettings = ChatTemplateSettings()
    max_length: PositiveInt = 1024
    max_rejected_share: Annotated[float, Field(ge=0, le=1)] = 0.1


class SftSettings(Settings):
    learning_rate: PositiveFloat = 6e-6
    epochs: PositiveFloat = 1
    fractions: Annotated[tuple[Share, ...], Field(min_length=1)] = (1.0,)
    batch_size: PositiveInt | None = None
    seed: Natural = 0


class ScalingSettings(Settings):
    workers: PositiveInt = 1
    cpus_per_worker: PositiveInt = 1
    gpus_per_worker: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    accelerator: str | None = None
    engine: Literal["auto", "deepspeed", "torch"] = "auto"
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    cpu_offload: bool = False  # of DeepSpeed's optimizer states, and with ZeRO 3 of weights
    concurrent_trials: Literal["auto"] | PositiveInt = "auto"
    max_failures: Annotated[int, Field(ge=0)] = 2
    price_per_gpu_hour: NonNegative | None = None  # in any currency: with it plan, status and report tell costs

    @model_validator(mode="after")
    def check(self) -> "ScalingSettings":
        gpus = self.gpus_per_worker
        if gpus != "auto" and 0 < share_or_whole(gpus, at="gpus_per_worker") < 1 < self.workers:
            raise wrong(f"{gpus:g}: workers of one group can't share a GPU; use whole ones", "gpus_per_worker")
        return self


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
        for place, size in sizes.items():
            if size % workers:
                raise wrong(f"{size} does not divide over {workers} workers; use a multiple of {workers}", place)
        if self.search.sampler == "grid" and isinstance(self.data.preferences.fraction, Range):
            raise wrong(NO_GRID, FRACTION)
        self._check_engine()
        self._check_sft()
        self._check_judges()
        return self

    def _check_engine(self) -> None:
        sharded = self.scaling.engine == "deepspeed" or (self.scaling.engine == "auto" and self.scaling.workers > 1)
        if sharded and self.scaling.zero_stage == 0 and self.in_bf16:
            # DeepSpeed's bf16 stage 0 takes a phantom optimizer step at initialisation.
            raise wrong("0 trains wrongly in bf16; use zero_stage 1, 2 or 3, or precision fp32", "scaling.zero_stage")
        if self.scaling.cpu_offload and self.scaling.engine == "torch":
            raise wrong("is DeepSpeed's; use engine deepspeed or auto", "scaling.cpu_offload")

    def _check_judges(self) -> None:
        evaluation = self.evaluation
        for place, judge in evaluation.judges:
            if judge.kind == "rule" and judge.function == "pocket" and self.data.preferences.source != "pocket":
                raise wrong("the pocket rule knows the pocket world only; use none, or a function of your own", place)
        if evaluation.judge.kind == "none":
            return
        bare = self.data.prompts.source == "pocket"
        for benchmark in evaluation.benchmarks:
            if bare and benchmark.source is None and evaluation.baseline_of(benchmark) == CHOSEN:
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
        for place, names in places.items():
            for name in names:
                if name == "sft" or name.startswith("sft:"):
                    raise wrong(f"{name!r} needs data.sft, which is missing; name its source, or use base", place)
