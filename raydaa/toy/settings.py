"""What a toy study may say; the paper's grid is the default."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raydaa.settings.base import Settings, wrong
from raydaa.settings.limits import NonNegative, PositiveFloat, PositiveInt, Share


class ToySettings(Settings):
    """Optimizer, number of steps and the drawing of the data are not in the paper; these defaults are ours."""

    output: str = "toy"
    rankings: Annotated[tuple[Literal["pairwise", "pointwise"], ...], Field(min_length=1)] = ("pairwise", "pointwise")
    hidden_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 3)
    learning_rates: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.5, 0.3, 0.1, 0.05, 0.03, 0.01)
    betas: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (5.0, 2.0, 1.0, 0.2, 0.1, 0.05, 0.01)
    runs: Annotated[int, Field(ge=4)] = 100  # each half chooses the settings that are reported on the other
    triplets: Annotated[int, Field(ge=10)] = 2000
    train_share: Annotated[float, Field(gt=0, lt=1)] = 0.8
    prompt_bias: Annotated[tuple[NonNegative, ...], Field(min_length=1)] = (0.0, 2.0)
    spread: PositiveFloat = 0.3  # of the two candidates around prompt_bias · sin 2x
    steps: PositiveInt = 200
    adam_betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    interval: Share = 0.95
    workers: Literal["auto"] | PositiveInt = "auto"

    @model_validator(mode="after")
    def check(self) -> "ToySettings":
        for name in ("rankings", "hidden_sizes", "learning_rates", "betas", "prompt_bias"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise wrong(f"{list(values)!r} names a value twice", name)
        if not 1 <= self.num_train < self.triplets:
            raise wrong(f"{self.train_share!r} of {self.triplets} triplets leaves none to test on", "train_share")
        return self

    @property
    def num_train(self) -> int:
        """Triplets that are trained on."""
        return round(self.triplets * self.train_share)
