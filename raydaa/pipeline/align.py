"""The stage align: the sweep of all trials."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raydaa.algorithms.catalog import code_hash, method_class
from raydaa.errors import InputError
from raydaa.pipeline.context import Context, LiveSlots
from raydaa.pipeline.reference import Reference
from raydaa.pipeline.stage import Stage
from raydaa.pipeline.starts import Start
from raydaa.reporting.tensorboard import export_trial
from raydaa.settings.base import validated
from raydaa.settings.study import StudySettings
from raydaa.settings.training import TrainingSettings
from raydaa.store.mirror import STUDY, push_soon
from raydaa.store.records import Point, SweepRecord, Trial, TrialList, TrialState
from raydaa.training.spec import DataSpec, ObjectiveSpec, Placement, Recipe, RunSpec
from raydaa.tuning.search_space import export, groups, label_of, title_of
from raydaa.tuning.sweep import Sweep, SweepBudget, SweptTrial

STAGE = Stage(
    name="align",
    writes="a record, metrics and a model for each trial",
    depends_on="the start's weights, tokenized pairs, every setting of the trial that changes its result",
    engine="Ray Tune and Optuna over Ray Train",
    after=("sft", "reference"),
)


def trial_recipe(settings: StudySettings, placement: Placement, point: Point) -> Recipe:
    """The run of one trial, whatever it starts from; its tokens per micro-batch as the study has them."""
    early = settings.search.early_stopping
    objective = ObjectiveSpec(
        method=point.method,
        code=code_hash(point.method),
        parameters=point.parameters,
        sft_weight=point.sft_weight,
        align_weight=point.align_weight,
    )
    return Recipe(
        training=validated(TrainingSettings, {**vars(settings.training), **point.training}),
        objective=objective,
        placement=placement,
        learning_rate=point.learning_rate,
        seed=point.seed,
        fraction=point.fraction,
        rungs=early.rungs if early else (),
        trust_remote_code=settings.model.trust_remote_code,
    )


def keyed_recipe(context: Context, starts: Mapping[str, Start], point: Point) -> tuple[str, Recipe]:
    """A trial's key and recipe, its tokens per micro-batch as the study has them."""
    recipe = trial_recipe(context.settings, context.resolved.placement, point)
    return recipe.key(starts[point.init].hash, context.prepared.keys["pairs"]), recipe


def make_sweep(context: Context, make: Callable[[Point], tuple[str, Recipe]]) -> Sweep:
    """The study's sweep as its trials' folders have it; nothing is begun."""
    settings, workers = context.settings, context.resolved.group
    limit = settings.search.budget
    budget = None if limit is None else SweepBudget(limit, workers.count * (workers.gpus or 1))
    found = groups(settings.search, settings.data.preferences.fraction)
    early, rows = settings.search.early_stopping, context.prepared.rows["train"]
    return Sweep(found, make, context.at.trials, early, rows, budget)


def align(context: Context, starts: dict[str, Start], references: dict[str, Reference]) -> list[Trial]:
    """The sweep: every trial of the study finished, stopped or failed."""
    from raydaa.tuning.schedule import run
    from raydaa.tuning.trackers import trackers

    settings = context.settings
    trials = _Trials(context, starts, references)
    sweep = make_sweep(context, trials.make)
    context.progress.start(STAGE.name, f"{len(sweep.trials)} trials, {context.resolved.slots} at a time")
    news = _News(context, sweep)
    news.write_list()
    asked = trackers(settings.tracking, settings.name, context.at)
    run(sweep, trials.spec_of, context.workers, LiveSlots(context), news.notify, list(asked.values()))
    news.write_list()
    context.at.optuna.unlink(missing_ok=True)
    export(sweep.groups, f"sqlite:///{context.at.optuna}")
    ended = [_trial(trial) for trial in sweep.trials.values()]
    context.at.trial_list.write(TrialList(tuple(ended)))
    states = [trial.state for trial in ended]
    context.progress.end(", ".join(f"{states.count(s)} {s}" for s in TrialState if s.is_over and s in states))
    if TrialState.FINISHED not in states:
        records = [context.at.trial(trial.key).record.read() for trial in ended]
        reasons = sorted({record.reason for record in records if record is not None})
        raise InputError(f"{context.study.where}: no trial finished: {'; '.join(reasons[:3])}")
    return ended


@dataclass(frozen=True)
class _Trials:
    """What a point of the search comes to as a training run."""

    context: Context
    starts: dict[str, Start]
    references: dict[str, Reference]

    def make(self, point: Point) -> tuple[str, Recipe]:
        """A trial's key and recipe, with the tokens per micro-batch that there is room for."""
        key, recipe = keyed_recipe(self.context, self.starts, point)
        return key, recipe.with_tokens(self.context.tokens_of(recipe.training))

    def spec_of(self, trial: SweptTrial, recipe: Recipe) -> RunSpec:
        """The run with its files."""
        init, prepared = trial.point.init, self.context.prepared
        mismatched = self.references[init].mismatched
        data = DataSpec(
            train=str(prepared.table("train")),
            validation=str(prepared.table("validation")),
            reference=str(self.references[init].pairs),
            mismatched=None if mismatched is None else str(mismatched),
        )
        start = str(self.starts[init].folder)
        return RunSpec(recipe=recipe, data=data, start=start, tokenizer=str(prepared.tokenizer))


@dataclass(frozen=True)
class _News:
    """What becomes of trials while they run, told and written down."""

    context: Context
    sweep: Sweep
    reached: dict[str, float] = field(default_factory=dict)  # share of its steps that each trial has done

    def notify(self, trial: SweptTrial, result: dict[str, Any]) -> None:
        """A trial has reported, or is over."""
        context, progress, trials = self.context, self.context.progress, self.sweep.trials
        context.keep_to(self.sweep.room)
        self.reached[trial.key] = result.get("step", 0) / trial.steps
        name = label_of(trial.point, trial.key)
        if trial.over:
            export_trial(trial.folder, context.at.tensorboard / name)
            if context.mirror is not None:
                push_soon(context.mirror, trial.folder.path, f"{STUDY}/trials/{trial.key}")
        if trial.state == TrialState.FAILED:
            record = trial.folder.record.read()
            progress.line(f"align     {name} failed: {record and record.reason}")
        self.write_list()
        work = sum(1.0 if t.over else self.reached.get(t.key, 0.0) for t in trials.values())
        over = sum(t.over for t in trials.values())
        progress.update(work, len(trials), f"{over}/{len(trials)} trials over; {name} {trial.state}")

    def write_list(self) -> None:
        """All trials as they are now, for who looks from outside."""
        trials = tuple(_trial(trial) for trial in self.sweep.trials.values())
        workers, slots = self.context.workers.count, self.context.resolved.slots
        self.context.at.sweep.write(SweepRecord(workers, slots, trials))


def _trial(swept: SweptTrial) -> Trial:
    point = swept.point
    cls = method_class(point.method)
    label = label_of(point, swept.key)
    return Trial(swept.key, cls.name, title_of(point), cls.ranking, swept.state, swept.steps, label, point)
