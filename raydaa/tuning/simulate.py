"""A sweep without its training: what the brackets come to, for who plans one or replays one."""

from collections.abc import Callable
from dataclasses import dataclass

from raydaa.store.records import PREFERENCE_LOSS, TrialState
from raydaa.tuning.sweep import Sweep, SweptTrial


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
        trial.folder.path.mkdir(parents=True, exist_ok=True)
        trial.started = True
        trial.move(TrialState.RUNNING)
        step = trial.reached + trial.steps_to_next_rung
        sweep.decide(trial, {**metrics_at(trial, step), "step": step})
        trial.move(TrialState.WAITING)
        if step == trial.steps:
            sweep.close(trial, TrialState.FINISHED)
        _stop_losers(sweep)
        at_rungs = sum(t.state == TrialState.WAITING and t.reached > 0 for t in sweep.trials.values())
        waiting = max(waiting, at_rungs)
    return SimulatedSweep(tuple(sweep.trials.values()), waiting)


def _stop_losers(sweep: Sweep) -> None:
    for trial in list(sweep.trials.values()):
        if trial.state == TrialState.WAITING and trial.bracket.decision(trial.key) == "stop":
            sweep.close(trial, TrialState.STOPPED)
