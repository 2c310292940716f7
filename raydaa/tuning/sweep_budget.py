"""What a sweep may cost, and what the next thing that it could do would."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from raydaa.settings.search import Budget
from raydaa.tuning.bracket import Bracket
from raydaa.tuning.swept_trial import SweptTrial


@dataclass(frozen=True)
class SweepBudget:
    """A sweep's budget, and how many GPUs (or workers without one) a trial keeps busy."""

    budget: Budget
    gpus: float = 1.0

    def holds(self, steps: int, seconds: float) -> bool:
        """Whether a sweep may come to so many steps and seconds of training."""
        if self.budget.trial_steps is not None:
            return steps <= self.budget.trial_steps
        assert self.budget.gpu_hours is not None
        return seconds * self.gpus / 3600 <= self.budget.gpu_hours


def steps_to_finisher(bracket: Bracket, trials: Mapping[str, SweptTrial]) -> int:
    """Steps until one setting of a bracket has finished: to each rung the way of all that are then still in it."""
    alive = [trials[key] for key in bracket.alive if not trials[key].over]
    if not alive:
        return 0
    rungs = alive[0].rungs[bracket.rung :]
    end = alive[0].steps
    if not rungs:
        return min(end - trial.reached for trial in alive)
    steps = sum(max(0, rungs[0] - trial.reached) for trial in alive)
    settings = len(set(bracket.alive.values()))
    seeds = len(alive) / settings
    for start, stop in pairwise(rungs):
        settings = max(1, math.ceil(settings * bracket.keep))
        steps += math.ceil(settings * seeds) * (stop - start)
    return steps + math.ceil(seeds) * (end - rungs[-1])
