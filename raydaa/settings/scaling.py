"""What a study file may say about the workers that train."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raydaa.settings.base import Settings, share_or_whole, wrong
from raydaa.settings.limits import NonNegative, PositiveInt


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

    def shards(self, on_gpus: bool) -> bool:
        """Whether DeepSpeed trains: plain torch is for one worker on CPUs, where nothing else is said."""
        if self.engine != "auto":
            return self.engine == "deepspeed"
        return self.workers > 1 or on_gpus

    @model_validator(mode="after")
    def check(self) -> "ScalingSettings":
        gpus = self.gpus_per_worker
        if gpus != "auto" and 0 < share_or_whole(gpus, at="gpus_per_worker") < 1 < self.workers:
            raise wrong(f"{gpus:g}: workers of one group can't share a GPU; use whole ones", "gpus_per_worker")
        return self
