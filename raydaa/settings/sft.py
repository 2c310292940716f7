"""What a study file may say about supervised fine-tuning."""

from typing import Annotated

from pydantic import Field

from raydaa.settings.base import Settings
from raydaa.settings.limits import Natural, PositiveFloat, PositiveInt, Share


class SftSettings(Settings):
    learning_rate: PositiveFloat = 6e-6
    epochs: PositiveFloat = 1.0
    fractions: Annotated[tuple[Share, ...], Field(min_length=1)] = (1.0,)
    batch_size: PositiveInt | None = None
    seed: Natural = 0
