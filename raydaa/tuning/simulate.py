"""A sweep without its training: what the brackets come to, for who plans one or replays one."""

from collections.abc import Callable
from dataclasses import dataclass

from raydaa.store.records import PREFERENCE_LOSS, TrialState
from raydaa.tuning.sweep import Sweep
from raydaa.tuning.swept_trial import SweptTrial


@dataclass(frozen=True)
class SimulatedSweep:
    """What a sweep came to; ``waiting`` is the most trials that kept a checkpoint at a rung at a time."""

    trials: tuple[SweptTrial, ...]
    waiting: int


def constant_metrics(trial: SweptTrial, step: int) -> dict[str, float]:
    """Metrics by which the first trial of a bracket goes on."""
    return {PREFERENCE_LOSS: 0.0}


def simulate(
    sweep: Sweep, metrics_at: Callable[[SweptTrial, int], dict[str, float]] = constant_metrics
) -> SimulatedSweep:
    """Bring a sweep to its end without training; ``metrics_at`` gives a trial's metrics at the step of a rung, or its
    last."""
    waiting = 0
    while not sweep.over:
        trial = next(iter(sweep.winners()), None) or sweep.next_trial()
        if trial is None:
            sweep.close_if_spent()
            continue
        sweep.start(trial)
        step = trial.reached + trial.steps_to_next_rung
        sweep.decide(trial, {**metrics_at(trial, step), "step": step})
        if step == trial.steps:
            sweep.close(trial, TrialState.FINISHED)
        else:
            sweep.pause(trial)
        for loser in sweep.losers():
            sweep.close(loser, TrialState.STOPPED)
        waiting = max(waiting, sweep.waiting)
    return SimulatedSweep(tuple(sweep.trials.values()), waiting)
