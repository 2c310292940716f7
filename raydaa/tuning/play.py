"""A sweep without its training: what the brackets come to, for who plans one or replays one."""

from dataclasses import dataclass

from raydaa.trial_folder import ACCURACY, LOSS
from raydaa.tuning.sweep import Sweep, SweptTrial


@dataclass
class Played:
    """What a sweep came to when it was played."""

    trials: list[SweptTrial]
    waiting: int = 0  # the most trials that kept a checkpoint at a rung


def play(sweep: Sweep) -> Played:
    """Bring a sweep to its end without training; of equal trials the first of a bracket goes on."""
    played = Played([])
    while not sweep.over:
        trial = next(iter(sweep.winners()), None) or sweep.next_trial()
        if trial is None:
            sweep.close_if_spent()
            continue
        trial.folder.mkdir(parents=True, exist_ok=True)
        trial.started, trial.state = True, "running"
        step = trial.reached + trial.leg
        sweep.decide(trial, {"step": step, LOSS: 0.0, ACCURACY: 0.0})
        trial.state = "waiting"
        if step == trial.steps:
            sweep.close(trial, "finished")
        _stop_losers(sweep)
        at_rungs = sum(t.state == "waiting" and t.reached > 0 for t in sweep.trials.values())
        played.waiting = max(played.waiting, at_rungs)
    played.trials = list(sweep.trials.values())
    return played


def _stop_losers(sweep: Sweep) -> None:
    for trial in list(sweep.trials.values()):
        if trial.state == "waiting" and trial.bracket.decision(trial.key) == "stop":
            sweep.close(trial, "stopped")
