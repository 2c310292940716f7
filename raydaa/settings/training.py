"""What a study file may say about training: the run and its adapters.

Settings of a run travel to workers as they are, also to machines without pydantic: they are plain dataclasses, and
each field says whether a run's result depends on it.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from raydaa.settings.limits import Names, NonNegative, PositiveFloat, PositiveInt, ShareBelowOne
from raydaa.store.identity import identity, parts, timing

FORBID = {"extra": "forbid"}  # as pydantic is told


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters: ΔW = alpha / rank · B A on the linear layers named by ``targets``."""

    __pydantic_config__: ClassVar = FORBID

    rank: PositiveInt = identity(16)
    alpha: PositiveFloat = identity(32.0)
    targets: Names = identity(("all-linear",))


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a run trains, whatever its objective."""

    __pydantic_config__: ClassVar = FORBID

    batch_size: PositiveInt = identity(128)
    epochs: PositiveFloat = identity(1.0)
    warmup_ratio: ShareBelowOne = identity(0.03)
    max_grad_norm: PositiveFloat = identity(2.0)
    adam_betas: tuple[ShareBelowOne, ShareBelowOne] = identity((0.9, 0.95))
    weight_decay: NonNegative = identity(0.0)
    precision: Literal["bf16", "fp32"] = identity("bf16")
    tokens_per_microbatch: Literal["auto"] | PositiveInt = timing("auto")
    attention: Literal["auto", "sdpa", "flex", "flash_attention_2"] = timing("auto")
    gradient_checkpointing: bool = timing(False)
    lora: LoraSettings | None = parts(None)
    validations: PositiveInt = timing(4)
    checkpoint_every: PositiveInt | None = timing(None)  # steps; None: by time
    checkpoint_minutes: NonNegative = timing(5.0)  # more where saving takes long
