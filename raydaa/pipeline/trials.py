"""The trials of a study: what each comes to as a training run, which there are, and which are looked at afterwards."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial

from raydaa.algorithms.catalog import code_hash
from raydaa.pipeline.context import Context
from raydaa.pipeline.named_models import ModelRef
from raydaa.pipeline.prepared import prepared_data
from raydaa.pipeline.stages.sft import starts
from raydaa.settings.base import validated
from raydaa.settings.study import StudySettings
from raydaa.settings.training import TrainingSettings
from raydaa.store.artifacts import key_of
from raydaa.store.records import PREFERENCE_LOSS, Point, Trial, TrialState
from raydaa.store.study_folder import StudyFolder
from raydaa.training.spec import ObjectiveSpec, Placement, Recipe
from raydaa.tuning.ledger import FolderLedger
from raydaa.tuning.search_space import groups
from raydaa.tuning.sweep import Sweep
from raydaa.tuning.sweep_budget import SweepBudget


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


def keyed_recipe(context: Context, models: Mapping[str, ModelRef], point: Point) -> tuple[str, Recipe]:
    """A trial's key and recipe, its tokens per micro-batch as the study has them."""
    recipe = trial_recipe(context.settings, context.resolved.placement, point)
    return recipe.key(models[point.init].hash, context.once(prepared_data).keys["pairs"]), recipe


def make_sweep(context: Context, make: Callable[[Point], tuple[str, Recipe]]) -> Sweep:
    """The study's sweep as its trials' folders have it; nothing is begun."""
    settings = context.settings
    workers = context.resolved.group
    limit = settings.search.budget
    budget = None if limit is None else SweepBudget(limit, workers.count * (workers.gpus or 1))
    points = groups(settings.search, settings.data.preferences.fraction)
    early = settings.search.early_stopping
    rows = context.once(prepared_data).rows["train"]
    return Sweep(points, make, FolderLedger(context.at.trials), early, rows, budget)


def sweep_before(context: Context) -> Sweep:
    """The sweep, for who only looks."""
    return make_sweep(context, partial(keyed_recipe, context, context.once(starts)))


def trials_listed(context: Context) -> list[Trial]:
    """What the last run said of the study's trials, and not of others that its file had then."""
    listed = context.at.sweep.read()
    sweep = context.once(sweep_before)
    trials = [] if listed is None else list(listed.trials)
    return [trial for trial in trials if trial.key in sweep.trials or sweep.undrawn]


def trials_to_evaluate(folder: StudyFolder, trials: Sequence[Trial], rule: str) -> list[Trial]:
    """The finished trials that ``judge_trials`` names, in the study's order.

    ``best_lr_per_beta`` takes the lowest held-out preference loss among trials with the same objective and start,
    ``best_per_method`` that of a method and start.
    """
    finished = [trial for trial in trials if trial.state == TrialState.FINISHED]
    if rule == "finished":
        return finished
    best: dict[str, tuple[float, Trial]] = {}
    for trial in finished:
        loss = folder.trial(trial.key).read_metrics()[-1][PREFERENCE_LOSS]
        group = group_of(trial.point, rule)
        if group not in best or loss < best[group][0]:
            best[group] = loss, trial
    keys = {trial.key for _, trial in best.values()}
    return [trial for trial in finished if trial.key in keys]


def group_of(point: Point, rule: str) -> str:
    """The trials among which ``judge_trials`` takes one."""
    if rule == "finished":
        return key_of(**asdict(point))
    group = key_of(init=point.init, method=point.method, fraction=point.fraction)
    if rule == "best_per_method":
        return group
    return key_of(group=group, parameters=point.parameters, weights=[point.sft_weight, point.align_weight])
