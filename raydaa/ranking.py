"""What trials are ranked by."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from raydaa.trial_row import TrialRow


@dataclass(frozen=True)
class Ranking:
    """What trials are ranked by."""

    name: str
    unit: str
    higher_is_better: bool
    value_of: Callable[[TrialRow], float]  # NaN where a trial has none


BY_WIN_RATE = Ranking("win rate", "%", True, lambda row: math.nan if row.win_rate is None else row.win_rate)
BY_LOSS = Ranking(
    "held-out preference loss",
    "nats",
    False,
    lambda row: math.nan if row.preference_loss is None else row.preference_loss,
)
