"""The state of a sweep: which trials there are, how far each is, and which may go on.

Each trial is one folder, named by its key; the folders are the only truth. A sweep that starts again reads
them: finished trials are not run, unfinished ones go on from their checkpoints, and brackets are refilled
from the logged metrics.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raydaa.settings.search import Budget, EarlyStopping
from raydaa.store.artifacts import intact, key_of
from raydaa.store.records import PREFERENCE_LOSS, TOKENS, Point, TrialRecord, TrialState
from raydaa.store.study_folder import TrialFolder
from raydaa.training.loop import rung_steps
from raydaa.training.spec import Recipe
from raydaa.tuning.bracket import Bracket
from raydaa.tuning.search_space import Group, Result


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


@dataclass
class SweptTrial:
    """One trial of the sweep while it runs."""

    key: str
    point: Point
    recipe: Recipe
    folder: TrialFolder
    steps: int
    bracket: Bracket
    requested_by: list[tuple[Group, int]] = field(default_factory=list)
    started: bool = False
    failures: int = 0
    state: TrialState = TrialState.WAITING
    reached: int = 0  # steps
    seconds: float = 0.0  # of training, so far

    @property
    def over(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.state.is_over

    def move(self, state: TrialState) -> None:
        """The trial is now in ``state``."""
        self.state = self.state.to(state)

    @property
    def steps_to_next_rung(self) -> int:
        """Steps to its next rung, or to its end."""
        return (
            next((s for s in rung_steps(self.recipe.rungs, self.steps) if s > self.reached), self.steps) - self.reached
        )


class Sweep:
    """Which trials there are, how far each is, and which may go on."""

    def __init__(
        self,
        groups: list[Group],
        make: Callable[[Point], tuple[str, Recipe]],
        folder: Path,
        early_stopping: EarlyStopping | None,
        table_size: int,
        budget: SweepBudget | None = None,
    ) -> None:
        self.groups = groups
        self.make = make
        self.folder = folder
        self.table_size = table_size
        self.early = early_stopping
        self.budget = budget
        self.room: int | None = None  # tokens that a micro-batch may have, where one with more was out of memory
        self.trials: dict[str, SweptTrial] = {}
        self.brackets: dict[str, Bracket] = {}
        for group in groups:
            self._draw(group)

    @property
    def undrawn(self) -> int:
        """Points of groups that wait for results before they draw on."""
        return sum(group.total - group.asked for group in self.groups)

    def _draw(self, group: Group) -> None:
        """The group's next cohort becomes trials; cohorts that are over already are followed by the next."""
        while cohort := group.next_cohort():
            joined = [self._join(group, number, point) for number, point in cohort]
            for trial in joined:
                self._read(trial)
            if not all(trial.over for trial in joined):
                return
            for number, trial in zip([number for number, _ in cohort], joined, strict=True):
                group.tell(number, _result(trial))

    def _join(self, group: Group, number: int, point: Point) -> SweptTrial:
        key, recipe = self.make(point)
        if key not in self.trials:
            bracket = self._bracket(point, group.asked)
            bracket.add(key)
            folder = TrialFolder(self.folder / key)
            steps = recipe.steps(self.table_size)
            self.trials[key] = SweptTrial(key, point, recipe, folder, steps, bracket)
        trial = self.trials[key]
        trial.requested_by.append((group, number))
        return trial

    def _bracket(self, point: Point, drawn: int) -> Bracket:
        # Trials on less data would lose, and a study of how much is needed would have no answer.
        comparable: dict[str, Any] = {"init": point.init, "method": point.method, "fraction": point.fraction}
        comparable["drawn"] = drawn
        if self.early is None or self.early.within == "beta":
            # Every objective keeps a finisher: curves over β and Pareto fronts stay whole.
            comparable |= {"parameters": point.parameters, "weights": [point.sft_weight, point.align_weight]}
        rungs, keep = (len(self.early.rungs), self.early.keep) if self.early else (0, 1.0)
        return self.brackets.setdefault(key_of(**comparable), Bracket(rungs, keep))

    def _read(self, trial: SweptTrial) -> None:
        """What the trial's folder says of it."""
        for metrics in trial.folder.read_metrics():
            self._note(trial, metrics)
        record = trial.folder.record.read()
        if record is None:
            return
        whole = trial.reached == trial.steps if record.removed is not None else intact(trial.folder.model)
        if record.state == TrialState.FINISHED and whole:
            trial.move(TrialState.FINISHED)
        elif record.state == TrialState.FAILED and not record.retry:
            trial.move(TrialState.FAILED)
        if trial.over:
            trial.bracket.leave(trial.key)

    def _note(self, trial: SweptTrial, metrics: dict[str, Any]) -> None:
        """Remember how far the trial is, and pass a rung's metric to the bracket."""
        trial.reached = max(trial.reached, metrics["step"])
        trial.seconds = max(trial.seconds, metrics.get("seconds", 0.0))
        if self.early is None or PREFERENCE_LOSS not in metrics:
            return
        for rung, step in enumerate(rung_steps(trial.recipe.rungs, trial.steps)):
            if step == metrics["step"]:
                trial.bracket.report(trial.key, rung, metrics[PREFERENCE_LOSS])

    def hand_back(self, trial: SweptTrial) -> None:
        """A trial whose worker died waits to be handed out again.

        It may have reached a rung, or its end, before anybody heard of it: its folder is asked.
        """
        if trial.over:  # its worker died after it had been closed
            return
        trial.started = False
        trial.move(TrialState.WAITING)
        self._read(trial)
        if trial.over:
            self._settle(trial)

    def next_trial(self) -> SweptTrial | None:
        """The next trial to hand to Tune, in the order of the study; those that lost already are closed here."""
        known = 0
        while known < len(self.trials):  # closing the last of a cohort may draw new ones
            waiting = list(self.trials.values())[known:]
            known += len(waiting)
            for trial in waiting:
                if trial.started or trial.over:
                    continue
                decision = trial.bracket.decision(trial.key)
                if decision == "stop":
                    self.close(trial, TrialState.STOPPED, "the others of its bracket were better at a rung")
                elif decision == "go" and self.fits_budget(trial):
                    return trial
        return None

    def winners(self) -> list[SweptTrial]:
        """Trials that wait at a rung, may go on, and come before new ones: a bracket ends before the next begins."""
        return [trial for trial in self.trials.values() if trial.started and self._may_run(trial)]

    def _may_run(self, trial: SweptTrial) -> bool:
        return (
            trial.state == TrialState.WAITING and trial.bracket.decision(trial.key) == "go" and self.fits_budget(trial)
        )

    def fits_budget(self, trial: SweptTrial) -> bool:
        """Whether the budget holds what was used, what runs on to its next rung, and this trial's way to its own.

        Hours are foreseen by the mean step so far; before the first report they are unknown.
        """
        # Without steps to go it was paid for, and is trained again for its model.
        if self.budget is None or not trial.steps_to_next_rung:
            return True
        done = sum(t.reached for t in self.trials.values())
        seconds = sum(t.seconds for t in self.trials.values())
        ahead = trial.steps_to_next_rung + sum(
            t.steps_to_next_rung for t in self.trials.values() if t.state == TrialState.RUNNING
        )
        return self.budget.holds(done + ahead, seconds + (seconds / done * ahead if done else 0.0))

    def close_if_spent(self) -> list[SweptTrial]:
        """Where nothing runs and the budget holds no trial's next leg, those that wait are over; returns them.

        Their checkpoints stay: with a larger budget they go on.
        """
        left = [trial for trial in self.trials.values() if not trial.over]
        if self.budget is None or self.running or any(map(self._may_run, left)):
            return []
        for trial in left:
            self.close(trial, TrialState.STOPPED, "the budget was spent", retry=True)
        return left

    def recipe_of(self, trial: SweptTrial) -> Recipe:
        """How a trial begins: in micro-batches of no more tokens than others were left with."""
        if self.room is None or trial.recipe.tokens <= self.room:
            return trial.recipe
        return trial.recipe.with_tokens(self.room)

    def decide(self, trial: SweptTrial, metrics: dict[str, Any]) -> str:
        """What becomes of a trial that has just reported.

        One that is tried again after a rung has its place there already; it is judged where it was judged before.
        """
        self._note(trial, metrics)
        if TOKENS in metrics and metrics[TOKENS] < self.recipe_of(trial).tokens:
            self.room = metrics[TOKENS]
        rungs = rung_steps(trial.recipe.rungs, trial.steps)
        if metrics["step"] < max((rungs[rung] for rung in trial.bracket.values[trial.key]), default=0):
            return "go"
        return trial.bracket.decision(trial.key)

    def close(self, trial: SweptTrial, state: TrialState, reason: str = "", retry: bool = False) -> None:
        """The trial is over: write its record unless its worker did, free its disk, tell its samplers."""
        if trial.over:
            return
        trial.move(state)
        # A trial that finished, or whose loss was no number, wrote its record itself.
        record = trial.folder.record.read()
        if state == TrialState.STOPPED or (
            state == TrialState.FAILED and (record is None or record.state != TrialState.FAILED)
        ):
            trial.folder.record.write(TrialRecord(state, reason, retry))
        self._settle(trial, retry)

    def _settle(self, trial: SweptTrial, retry: bool = False) -> None:
        """What follows from a trial's end."""
        trial.bracket.leave(trial.key)
        if not retry:
            shutil.rmtree(trial.folder.checkpoint, ignore_errors=True)
        for group in {id(group): group for group, _ in trial.requested_by}.values():
            members = [t for t in self.trials.values() if any(g is group for g, _ in t.requested_by)]
            if all(t.over for t in members):
                for t in members:
                    self._tell(group, t)
                self._draw(group)

    def _tell(self, group: Group, trial: SweptTrial) -> None:
        for asker, number in trial.requested_by:
            if asker is group and not group.study.trials[number].state.is_finished():
                group.tell(number, _result(trial))

    @property
    def running(self) -> int:
        """How many trials Tune has at work."""
        return sum(trial.state == TrialState.RUNNING for trial in self.trials.values())

    @property
    def over(self) -> bool:
        """Whether every trial is over."""
        return all(trial.over for trial in self.trials.values())


def _result(trial: SweptTrial) -> Result:
    failed = trial.state == TrialState.FAILED
    metrics = [] if failed else [m for m in trial.folder.read_metrics() if PREFERENCE_LOSS in m]
    return Result(metrics[-1][PREFERENCE_LOSS] if metrics else None)
