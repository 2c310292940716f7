"""The stage align: the sweep of all trials."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from raydaa.algorithms.catalog import method_class
from raydaa.errors import InputError
from raydaa.pipeline.benchmarks import benchmarks
from raydaa.pipeline.contest import evaluated_trial, wanted_responses
from raydaa.pipeline.context import Context, LiveSlots
from raydaa.pipeline.prepared import prepared_data
from raydaa.pipeline.prune_models import reopen_missing
from raydaa.pipeline.stage import Count, Recorded, RecordStage, missing
from raydaa.pipeline.stages.reference import references
from raydaa.pipeline.stages.score import score_work
from raydaa.pipeline.stages.sft import starts
from raydaa.pipeline.token_budget import lower_tokens, tokens_of
from raydaa.pipeline.trials import keyed_recipe, make_sweep, sweep_before, trials_listed, trials_to_evaluate
from raydaa.reporting.tensorboard import export_trial
from raydaa.store.mirror import STUDY, push_in_background
from raydaa.store.records import Point, SweepRecord, Trial, TrialList, TrialState
from raydaa.training.spec import DataSpec, Recipe, RunSpec
from raydaa.tuning.search_space import Group, export, label_of, title_of
from raydaa.tuning.sweep import Sweep
from raydaa.tuning.swept_trial import SweptTrial

SHARE = 50  # of the time that writing the list took, until it is written again


def _sweep(context: Context) -> Sweep:
    """The study's sweep, as far as it is."""
    return make_sweep(context, partial(_recipe_with_tokens, context))


def _about(context: Context) -> str:
    return f"{len(context.once(_sweep).trials)} trials, {context.resolved.slots} at a time"


def _align(context: Context) -> Recorded:
    """Every trial of the study finished, stopped or failed; again, where a removed model has something to answer."""
    trials = _run_trials(context, context.once(_sweep))
    context.know(trials_listed, trials)
    states = [trial.state for trial in trials]
    summary = ", ".join(f"{states.count(state)} {state}" for state in TrialState if state.is_over and state in states)
    if TrialState.FINISHED not in states:
        records = [context.at.trial(trial.key).record.read() for trial in trials]
        reasons = sorted({record.reason for record in records if record is not None})
        raise InputError(f"no trial finished: {'; '.join(reasons[:3])}")
    reopened = reopen_missing(context, _unanswered(context, trials))
    return Recorded(summary, STAGE.name if reopened else None)


def _look(context: Context) -> Count:
    """How many trials are over, of how many."""
    sweep = context.once(sweep_before)
    over = {trial.key for trial in sweep.trials.values() if trial.over}
    for trial in context.once(trials_listed):  # that one was stopped does not stand in its folder
        if trial.state == TrialState.STOPPED or (trial.state.is_over and trial.key not in sweep.trials):
            over.add(trial.key)
    return Count(len(over), max(len(sweep.trials) + sweep.undrawn, len(over)))


def _run_trials(context: Context, sweep: Sweep) -> list[Trial]:
    from raydaa.tuning.schedule import run
    from raydaa.tuning.trackers import trackers

    settings = context.settings
    news = _News(context, sweep)
    news.write_list()
    callbacks = list(trackers(settings.tracking, settings.name, context.at).values())
    run(sweep, partial(_spec_of, context), context.workers, LiveSlots(context), news.notify, callbacks)
    news.write_list()
    context.at.optuna.unlink(missing_ok=True)
    searched = [group for group in sweep.groups if isinstance(group, Group)]
    export(searched, f"sqlite:///{context.at.optuna}")
    trials = [_trial(trial) for trial in sweep.trials.values()]
    context.at.trial_list.write(TrialList(tuple(trials)))
    return trials


def _unanswered(context: Context, trials: Sequence[Trial]) -> list[Trial]:
    """Trials whose model was removed and has to answer."""
    looked_at = trials_to_evaluate(context.at, trials, context.settings.evaluation.judge_trials)
    removed = [trial for trial in looked_at if not context.at.trial(trial.key).model.exists()]
    models = [evaluated_trial(context, trial) for trial in removed]
    judged, for_kl = wanted_responses(context, benchmarks(context), models)
    unanswered: list[Trial] = []
    for trial in removed:
        responses = [for_kl[trial.key], *(work[trial.key] for work in judged.values() if trial.key in work)]
        start = context.once(starts)[trial.point.init]
        if missing(responses) or not score_work(context, for_kl[trial.key], start).output.done:
            unanswered.append(trial)
    return unanswered


def _recipe_with_tokens(context: Context, point: Point) -> tuple[str, Recipe]:
    """A trial's key and recipe, with the tokens per micro-batch that there is room for."""
    key, recipe = keyed_recipe(context, context.once(starts), point)
    return key, recipe.with_tokens(tokens_of(context, recipe.training))


def _spec_of(context: Context, trial: SweptTrial, recipe: Recipe) -> RunSpec:
    """A trial's run with its files."""
    init = trial.point.init
    prepared = context.once(prepared_data)
    reference = context.once(references)[init]
    data = DataSpec(
        train=str(prepared.table("train")),
        validation=str(prepared.table("validation")),
        reference=str(reference.pairs),
        mismatched=None if reference.mismatched is None else str(reference.mismatched),
    )
    start = str(context.once(starts)[init].folder)
    return RunSpec(recipe=recipe, data=data, start=start, tokenizer=str(prepared.tokenizer))


@dataclass
class Pace:
    """How often something may be done that takes longer the more trials there are: it gets a fiftieth of the time."""

    last: float = -math.inf  # when it was done, and what it took
    took: float = 0.0

    def allows(self) -> bool:
        """Whether it is time."""
        return time.monotonic() - self.last > SHARE * self.took

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """Around what is done."""
        began = time.monotonic()
        yield
        self.last = time.monotonic()
        self.took = self.last - began


@dataclass(frozen=True)
class _News:
    """What becomes of trials while they run, told and written down."""

    context: Context
    sweep: Sweep
    reached: dict[str, float] = field(default_factory=dict)  # share of its steps that each trial has done
    listing: Pace = field(default_factory=Pace)

    def notify(self, trial: SweptTrial, result: dict[str, Any]) -> None:
        """A trial has reported, or is over."""
        context = self.context
        progress = self.context.progress
        trials = self.sweep.trials
        lower_tokens(context, self.sweep.room)
        self.reached[trial.key] = result.get("step", 0) / trial.steps
        name = label_of(trial.point, trial.key)
        if trial.over:
            export_trial(trial.folder, context.at.tensorboard / name)
            if context.mirror is not None:
                push_in_background(context.mirror, trial.folder.path, f"{STUDY}/trials/{trial.key}")
        if trial.state == TrialState.FAILED:
            record = trial.folder.record.read()
            progress.line(f"align     {name} failed: {record and record.reason}")
        if self.listing.allows():
            self.write_list()
        work = sum(1.0 if t.over else self.reached.get(t.key, 0.0) for t in trials.values())
        over = sum(t.over for t in trials.values())
        progress.update(work, len(trials), f"{over}/{len(trials)} trials over; {name} {trial.state}")

    def write_list(self) -> None:
        """All trials as they are now, for who looks from outside."""
        with self.listing.measured():
            self._write_list()

    def _write_list(self) -> None:
        trials = tuple(_trial(trial) for trial in self.sweep.trials.values())
        workers = self.context.workers.count
        slots = self.context.resolved.slots
        self.context.at.sweep.write(SweepRecord(workers, slots, trials))


def _trial(swept: SweptTrial) -> Trial:
    point = swept.point
    cls = method_class(point.method)
    label = label_of(point, swept.key)
    return Trial(
        key=swept.key,
        method=cls.name,
        title=title_of(point),
        ranking=cls.ranking,
        state=swept.state,
        steps=swept.steps,
        label=label,
        point=point,
        finalist=swept.finalist,
    )


STAGE = RecordStage(
    name="align",
    writes="a record, metrics and a model for each trial",
    depends_on="the start's weights, tokenized pairs, every setting of the trial that changes its result",
    engine="Ray Tune and Optuna over Ray Train",
    after=("sft", "reference"),
    about=_about,
    record=_align,
    look=_look,
)
