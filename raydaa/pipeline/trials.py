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
from raydaa.tuning.search_space import FinalistGroup, Group, groups
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
    points: list[Group | FinalistGroup] = [*groups(settings.search, settings.data.preferences.fraction)]
    if (finalists := _finalists(context)) is not None:
        points.append(finalists)
    early = settings.search.early_stopping
    rows = context.once(prepared_data).rows["train"]
    return Sweep(points, make, FolderLedger(context.at.trials), early, rows, budget)


def _finalists(context: Context) -> FinalistGroup | None:
    """What was chosen to be trained after the sweep; of a study file that has changed it must be chosen anew."""
    record = context.at.finalists.read()
    if record is None or record.search != search_key(context):
        return None
    return FinalistGroup(record.points)


def search_key(context: Context) -> str:
    """Of all settings that finalists are chosen by."""
    settings = context.settings.model_dump(mode="json")
    parts = ("model", "data", "pocket", "sft", "training", "search", "generation", "evaluation")
    return key_of(**{name: settings[name] for name in parts})


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
    """The finished trials that ``judge_trials`` names, in the study's order; finalists are all looked at.

    ``best_lr_per_beta`` takes the setting with the lowest held-out preference loss, the mean over its seeds, among
    those with the same objective and start, ``best_per_method`` that of a method and start.
    """
    finished = [trial for trial in trials if trial.state == TrialState.FINISHED]
    if rule == "finished":
        return finished
    losses: dict[str, list[float]] = {}  # by setting
    groups_of: dict[str, str] = {}
    for trial in finished:
        if not trial.finalist:
            loss = folder.trial(trial.key).read_metrics()[-1][PREFERENCE_LOSS]
            losses.setdefault(trial.point.setting, []).append(loss)
            groups_of[trial.point.setting] = group_of(trial.point, rule)
    best: dict[str, tuple[float, str]] = {}
    for setting, of_seeds in losses.items():
        mean = sum(of_seeds) / len(of_seeds)
        group = groups_of[setting]
        if group not in best or mean < best[group][0]:
            best[group] = mean, setting
    chosen = {setting for _, setting in best.values()}
    return [trial for trial in finished if trial.finalist or trial.point.setting in chosen]


def group_of(point: Point, rule: str) -> str:
    """The trials among which ``judge_trials`` takes one."""
    if rule == "finished":
        return key_of(**asdict(point))
    group = key_of(init=point.init, method=point.method, fraction=point.fraction)
    if rule == "best_per_method":
        return group
    return key_of(group=group, parameters=point.parameters, weights=[point.sft_weight, point.align_weight])
