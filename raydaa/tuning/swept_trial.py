"""A trial as a sweep knows it, and the trials whose settings a sampler drew together."""

from dataclasses import dataclass, field
from functools import cached_property

from raydaa.store.records import Point, TrialState
from raydaa.store.study_folder import TrialFolder
from raydaa.training.loop import rung_steps
from raydaa.training.spec import Recipe
from raydaa.tuning.bracket import Bracket
from raydaa.tuning.search_space import FinalistGroup, Group, Result


@dataclass
class SweptTrial:
    """One trial of the sweep while it runs."""

    key: str
    number: int  # in the order of the study
    point: Point
    recipe: Recipe
    folder: TrialFolder
    steps: int
    bracket: Bracket
    cohorts: list["Cohort"] = field(default_factory=list)  # that asked for it
    started: bool = False
    failures: int = 0
    state: TrialState = TrialState.WAITING
    reached: int = 0  # steps
    seconds: float = 0.0  # of training, so far
    loss: float | None = None  # the newest held-out preference loss

    @property
    def over(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.state.is_over

    @property
    def finalist(self) -> bool:
        """Whether it was chosen to be trained, and does not compete."""
        return not self.cohorts[0].group.competes

    @property
    def begun(self) -> bool:
        """Whether something was done for it, in this run or one before."""
        return self.started or self.reached > 0

    def move(self, state: TrialState) -> None:
        """The trial is now in ``state``."""
        self.state = self.state.to(state)

    @cached_property
    def rungs(self) -> list[int]:
        """The steps at which its bracket decides."""
        return rung_steps(self.recipe.rungs, self.steps)

    @property
    def steps_to_next_rung(self) -> int:
        """Steps to its next rung, or to its end."""
        return next((step for step in self.rungs if step > self.reached), self.steps) - self.reached


@dataclass
class Cohort:
    """Settings that a group has drawn together: the next are drawn when all of their trials are over."""

    group: Group | FinalistGroup
    trials: dict[int, list[SweptTrial]] = field(default_factory=dict)  # by the setting's number
    left: set[str] = field(default_factory=set)  # keys of trials that are not over

    def add(self, number: int, trial: SweptTrial) -> None:
        """Trial of setting ``number``."""
        self.trials.setdefault(number, []).append(trial)
        trial.cohorts.append(self)
        if not trial.over:
            self.left.add(trial.key)

    def done(self, trial: SweptTrial) -> bool:
        """Whether ``trial``, which is over, was the last."""
        self.left.discard(trial.key)
        return not self.left

    def tell(self) -> None:
        """The sampler learns what came of each setting, by the mean over its seeds."""
        for number, trials in self.trials.items():
            losses = [trial.loss for trial in trials if trial.loss is not None and trial.state != TrialState.FAILED]
            stopped = any(trial.state == TrialState.STOPPED for trial in trials)
            mean = sum(losses) / len(losses) if losses else None
            self.group.tell(number, Result(mean, stopped, max(trial.reached for trial in trials)))
