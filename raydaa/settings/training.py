"""What a study file may say about how models are trained, and on what."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raydaa.settings.base import (
    Names,
    Natural,
    NonNegative,
    PositiveFloat,
    PositiveInt,
    Settings,
    Share,
    share_or_whole,
    wrong,
)


class LoraSettings(Settings):
    """Low-rank adapters: ΔW = alpha / rank · B A on the linear layers named by ``targets``."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    targets: Names = ("all-linear",)


class TrainingSettings(Settings):
    batch_size: PositiveInt = 128
    epochs: PositiveFloat = 1
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    max_grad_norm: PositiveFloat = 2.0
    adam_betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    weight_decay: NonNegative = 0.0
    precision: Literal["bf16", "fp32"] = "bf16"
    tokens_per_microbatch: Literal["auto"] | PositiveInt = "auto"
    attention: Literal["auto", "sdpa", "flex", "flash_attention_2"] = "auto"
    gradient_checkpointing: bool = False
    lora: LoraSettings | None = None
    validations: PositiveInt = 4
    checkpoint_every: PositiveInt | None = None  # steps; None: by time
    checkpoint_minutes: NonNegative = 5  # more where saving takes long


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
