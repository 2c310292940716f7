"""A sweep without its training: what the brackets come to, for who plans one or replays one."""

from collections.abc import Callable
from dataclasses import dataclass

from raydaa.store.study_folder import PREFERENCE_LOSS, TrialState
from raydaa.tuning.sweep import Sweep, SweptTrial


@dataclass
class Played:
    """What a sweep came to when it was played."""

    trials: list[SweptTrial]
    waiting: int = 0  # the most trials that kept a checkpoint at a rung


def all_alike(trial: SweptTrial, step: int) -> dict[str, float]:
    """Metrics by which the first trial of a bracket goes on."""
    return {PREFERENCE_LOSS: 0.0}


def play(sweep: Sweep, told: Callable[[SweptTrial, int], dict[str, float]] = all_alike) -> Played:
    """Bring a sweep to its end without training; ``told`` are a trial's metrics at the step of a rung, or its last."""
    played = Played([])
    while not sweep.over:
        trial = next(iter(sweep.winners()), None) or sweep.next_trial()
        if trial is None:
            sweep.close_if_spent()
            continue
        trial.folder.path.mkdir(parents=True, exist_ok=True)
        trial.started = True
        trial.move(TrialState.RUNNING)
        step = trial.reached + trial.leg
        sweep.decide(trial, {**told(trial, step), "step": step})
        trial.move(TrialState.WAITING)
        if step == trial.steps:
            sweep.close(trial, TrialState.FINISHED)
        _stop_losers(sweep)
        at_rungs = sum(t.state == TrialState.WAITING and t.reached > 0 for t in sweep.trials.values())
        played.waiting = max(played.waiting, at_rungs)
    played.trials = list(sweep.trials.values())
    return played


def _stop_losers(sweep: Sweep) -> None:
    for trial in list(sweep.trials.values()):
        if trial.state == TrialState.WAITING and trial.bracket.decision(trial.key) == "stop":
            sweep.close(trial, TrialState.STOPPED)
