"""The state of a sweep: which trials there are, how far each is, and which may go on.

A sweep that starts again reads what was done before: finished trials are not run, unfinished ones go on from their
checkpoints, and brackets are refilled from the logged metrics. Nothing that happens to one trial takes a look at all
others: a sweep of thousands costs as much a trial at its end as at its beginning.
"""

import heapq
from collections.abc import Callable, Sequence
from typing import Any

from raydaa.settings.search import EarlyStopping
from raydaa.store.artifacts import key_of
from raydaa.store.records import LOST, PREFERENCE_LOSS, SPENT, TOKENS, Point, TrialState
from raydaa.training.spec import Recipe
from raydaa.tuning.bracket import Bracket
from raydaa.tuning.ledger import Ledger
from raydaa.tuning.search_space import FinalistGroup, Group
from raydaa.tuning.sweep_budget import SweepBudget, steps_to_finisher
from raydaa.tuning.swept_trial import Cohort, SweptTrial


class Sweep:
    """Which trials there are, how far each is, and which may go on."""

    def __init__(
        self,
        groups: Sequence[Group | FinalistGroup],
        make: Callable[[Point], tuple[str, Recipe]],
        ledger: Ledger,
        early_stopping: EarlyStopping | None,
        table_size: int,
        budget: SweepBudget | None = None,
    ) -> None:
        self.groups = groups
        self.make = make
        self.ledger = ledger
        self.table_size = table_size
        self.early = early_stopping
        self.budget = budget
        self.room: int | None = None  # tokens that a micro-batch may have, where one with more was out of memory
        self.trials: dict[str, SweptTrial] = {}
        self.brackets: dict[str, Bracket] = {}
        self._by_number: list[SweptTrial] = []
        self._unbegun: list[int] = []  # a heap of their numbers: the next to be handed out is the first
        self._at_work: dict[str, SweptTrial] = {}  # what Tune runs
        self._paused: dict[str, SweptTrial] = {}  # waiting at a rung that is not decided
        self._winners: dict[str, SweptTrial] = {}  # waiting there, and may go on
        self._losers: dict[str, SweptTrial] = {}  # waiting there, and out
        self._open = 0  # trials that are not over
        self._steps, self._seconds = 0, 0.0  # that all trials have done
        for group in groups:
            self._draw(group)

    @property
    def undrawn(self) -> int:
        """Trials of groups that wait for results before they draw on."""
        return sum(group.undrawn for group in self.groups)

    @property
    def running(self) -> int:
        """How many trials Tune has at work."""
        return len(self._at_work)

    @property
    def waiting(self) -> int:
        """How many trials keep a checkpoint at a rung."""
        return len(self._paused) + len(self._winners) + len(self._losers)

    @property
    def over(self) -> bool:
        """Whether every trial is over."""
        return not self._open

    def _draw(self, group: Group | FinalistGroup) -> None:
        """The group's next cohort becomes trials; cohorts that are over already are followed by the next."""
        while drawn := group.next_cohort():
            cohort = Cohort(group)
            known = len(self._by_number)
            for number, point in drawn:
                self._join(cohort, number, point)
            for trial in self._by_number[known:]:
                self._read(trial)
                if trial.over:
                    self._forget(trial)
                else:
                    heapq.heappush(self._unbegun, trial.number)
            if cohort.left:
                return
            cohort.tell()

    def _join(self, cohort: Cohort, number: int, point: Point) -> None:
        key, recipe = self.make(point)
        trial = self.trials.get(key)
        if trial is None:
            bracket = self._bracket(point, cohort.group)
            bracket.add(key, point.setting)
            folder = self.ledger.folder(key)
            steps = recipe.steps(self.table_size)
            trial = SweptTrial(key, len(self._by_number), point, recipe, folder, steps, bracket)
            self.trials[key] = trial
            self._by_number.append(trial)
            self._open += 1
        cohort.add(number, trial)

    def _bracket(self, point: Point, group: Group | FinalistGroup) -> Bracket:
        if not group.competes:
            return Bracket(0, 1.0)
        # Trials on less data would lose, and a study of how much is needed would have no answer. Who is in a bracket
        # the study file fixes: one entry of it, and one cohort of that.
        comparable: dict[str, Any] = {"init": point.init, "method": point.method, "fraction": point.fraction}
        comparable |= {"entry": group.entry, "cohort": group.cohorts}
        if self.early is None or self.early.within == "beta":
            # Every objective keeps a finisher: curves over β and Pareto fronts stay whole.
            comparable |= {"parameters": point.parameters, "weights": [point.sft_weight, point.align_weight]}
        rungs, keep = (len(self.early.rungs), self.early.keep) if self.early else (0, 1.0)
        return self.brackets.setdefault(key_of(**comparable), Bracket(rungs, keep))

    def _read(self, trial: SweptTrial) -> None:
        """What was done for the trial before."""
        for metrics in self.ledger.read_metrics(trial):
            self._note(trial, metrics)
        end = self.ledger.read_end(trial)
        if end is not None:
            trial.move(end)

    def _note(self, trial: SweptTrial, metrics: dict[str, Any]) -> None:
        """Remember how far the trial is, and pass a rung's metric to the bracket."""
        reached = trial.reached
        seconds = trial.seconds
        trial.reached = max(reached, metrics["step"])
        trial.seconds = max(seconds, metrics.get("seconds", 0.0))
        if not trial.finalist:  # these come on top of the sweep's budget
            self._steps += trial.reached - reached
            self._seconds += trial.seconds - seconds
        if PREFERENCE_LOSS not in metrics:
            return
        trial.loss = metrics[PREFERENCE_LOSS]
        if self.early is None:
            return
        for rung, step in enumerate(trial.rungs):
            if step == metrics["step"]:
                before = trial.bracket.rung
                trial.bracket.report(trial.key, rung, metrics[PREFERENCE_LOSS])
                self._carry_out(trial.bracket, before)

    def _carry_out(self, bracket: Bracket, before: int) -> None:
        """What was decided since rung ``before``, for the bracket's trials that wait."""
        if bracket.rung == before:
            return
        for key in bracket.values:
            trial = self.trials[key]
            if self._paused.pop(key, None) is not None:
                self._rest(trial)
            elif not trial.started and not trial.over:
                heapq.heappush(self._unbegun, trial.number)

    def _rest(self, trial: SweptTrial) -> None:
        """A trial that was begun waits, among those that are decided about as it is."""
        of_decision = {"wait": self._paused, "go": self._winners, "stop": self._losers}
        of_decision[trial.bracket.decision(trial.key)][trial.key] = trial

    def start(self, trial: SweptTrial) -> None:
        """Tune runs the trial."""
        self._winners.pop(trial.key, None)
        trial.started = True
        trial.move(TrialState.RUNNING)
        self._at_work[trial.key] = trial

    def pause(self, trial: SweptTrial) -> None:
        """Tune has put the trial aside at a rung."""
        self._at_work.pop(trial.key, None)
        trial.move(TrialState.WAITING)
        self._rest(trial)

    def hand_back(self, trial: SweptTrial) -> None:
        """A trial whose worker died waits to be handed out again.

        It may have reached a rung, or its end, before anybody heard of it: the ledger is asked.
        """
        if trial.over:  # its worker died after it had been closed
            return
        self._set_aside(trial)
        trial.started = False
        trial.move(TrialState.WAITING)
        self._read(trial)
        if trial.over:
            self._settle(trial)
        else:
            heapq.heappush(self._unbegun, trial.number)

    def _set_aside(self, trial: SweptTrial) -> None:
        for trials in (self._at_work, self._paused, self._winners, self._losers):
            trials.pop(trial.key, None)

    def next_trial(self) -> SweptTrial | None:
        """The next trial to hand to Tune, in the order of the study; those that lost already are closed here."""
        too_long: list[int] = []
        chosen: SweptTrial | None = None
        while self._unbegun and chosen is None:
            trial = self._by_number[self._unbegun[0]]
            decision = trial.bracket.decision(trial.key)
            if not (trial.started or trial.over) and decision == "go" and self.fits_budget(trial):
                chosen = trial  # stays the first until it is started
                continue
            heapq.heappop(self._unbegun)
            if trial.started or trial.over:
                continue
            if decision == "stop":
                self.close(trial, TrialState.STOPPED, LOST)
            elif decision == "go":
                too_long.append(trial.number)
            # One that waits at a rung since before comes back when that is decided.
        for number in too_long:
            heapq.heappush(self._unbegun, number)
        return chosen

    def winners(self) -> list[SweptTrial]:
        """Trials that wait at a rung, may go on, and come before new ones: a bracket ends before the next begins."""
        able = [trial for trial in self._winners.values() if self.fits_budget(trial)]
        return sorted(able, key=lambda trial: trial.number)

    def losers(self) -> list[SweptTrial]:
        """Trials that wait at a rung, and are out."""
        return list(self._losers.values())

    def fits_budget(self, trial: SweptTrial) -> bool:
        """Whether the budget holds what was used, what runs on to its next rung, and this trial's way to its own; and,
        where it is the first of its bracket, to an end of one of the bracket's.

        Hours are foreseen by the mean step so far; before the first report they are unknown.
        """
        # Without steps to go it was paid for, and is trained again for its model.
        if self.budget is None or not trial.steps_to_next_rung or trial.finalist:
            return True
        at_work = [running for running in self._at_work.values() if not running.finalist]
        ahead = trial.steps_to_next_rung + sum(running.steps_to_next_rung for running in at_work)
        if not any(self.trials[key].begun for key in trial.bracket.values):
            held = [*at_work, *self._paused.values(), *self._winners.values()]
            brackets = {id(other.bracket): other.bracket for other in [*held, trial]}
            ahead = sum(steps_to_finisher(bracket, self.trials) for bracket in brackets.values())
        seconds = self._seconds / self._steps * ahead if self._steps else 0.0
        return self.budget.holds(self._steps + ahead, self._seconds + seconds)

    def close_if_spent(self) -> list[SweptTrial]:
        """Where nothing runs and the budget holds no trial's next leg, those that wait are over; returns them.

        Their checkpoints stay: with a larger budget they go on.
        """
        if self.budget is None or self.running or self.winners() or self.next_trial() is not None:
            return []
        left = [trial for trial in self._by_number if not trial.over]
        for trial in left:
            self.close(trial, TrialState.STOPPED, SPENT, retry=True)
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
        if metrics["step"] < max((trial.rungs[rung] for rung in trial.bracket.values[trial.key]), default=0):
            return "go"
        return trial.bracket.decision(trial.key)

    def close(self, trial: SweptTrial, state: TrialState, reason: str = "", retry: bool = False) -> None:
        """The trial is over: write its record unless its worker did, free its disk, tell its samplers."""
        if trial.over:
            return
        trial.move(state)
        self.ledger.write_end(trial, reason, retry)
        self._settle(trial, retry)

    def _settle(self, trial: SweptTrial, retry: bool = False) -> None:
        """What follows from a trial's end."""
        self._set_aside(trial)
        if not retry:
            self.ledger.drop_checkpoints(trial)
        for cohort in self._forget(trial):
            cohort.tell()
            self._draw(cohort.group)

    def _forget(self, trial: SweptTrial) -> list[Cohort]:
        """Nobody waits for the trial any more; the cohorts that it was the last of."""
        self._open -= 1
        before = trial.bracket.rung
        trial.bracket.leave(trial.key)
        self._carry_out(trial.bracket, before)
        return [cohort for cohort in trial.cohorts if cohort.done(trial)]
