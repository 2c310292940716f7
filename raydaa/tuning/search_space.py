"""Which trials a study asks for: Optuna hands out the points of every (start, method)."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from raydaa.algorithms.catalog import display_name
from raydaa.compat.optuna import storage_of
from raydaa.settings.base import Range
from raydaa.settings.search import FRACTION, MethodSettings, SearchSettings
from raydaa.store.records import Point

Values = tuple[Any, ...] | Range

# Points that tpe draws before it looks at results again. Fixed, so that a resumed study draws the same ones.
COHORT = 4


def title_of(point: Point) -> str:
    """The method's name, marked where its scores are per token although the method's are sums, or the reverse."""
    return display_name(point.method, point.parameters)


def label_of(point: Point, key: str) -> str:
    """A short name of the trial ``key`` for people, and for a folder; what is at its default is left out."""
    values = {name: value for name, value in point.parameters.items() if not isinstance(value, bool)}
    for field in fields(Point):
        if field.name in ("sft_weight", "align_weight", "fraction") and getattr(point, field.name) != field.default:
            values[field.name] = getattr(point, field.name)
    values |= point.training | {"lr": point.learning_rate, "seed": point.seed}
    start = [] if point.init == "sft" else [point.init.replace("/", "_")]
    texts = [f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()]
    return " ".join([*start, title_of(point), *texts, key[:6]])


@dataclass(frozen=True)
class Result:
    """What the sampler learns of a finished trial: a value to minimise, or None where there is none."""

    value: float | None


class Group:
    """All trials of one start and method: an Optuna study that is asked in the same order every time."""

    def __init__(self, init: str, settings: MethodSettings, search: SearchSettings, fraction: Values) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.init = init
        self.settings = settings
        # A method with a range has no grid: its points are drawn.
        dimensions = _dimensions(settings, search, fraction)
        ranged = any(isinstance(value, Range) for value in dimensions.values())
        self.sampler = "tpe" if search.sampler == "grid" and ranged else search.sampler
        self.dimensions = {name: _distribution(value) for name, value in dimensions.items()}
        samplers: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
            "grid": lambda: optuna.samplers.RandomSampler(seed=0),  # never asked: every point is enqueued
            "random": lambda: optuna.samplers.RandomSampler(seed=0),
            "tpe": lambda: optuna.samplers.TPESampler(seed=0, n_startup_trials=2 * COHORT, multivariate=True),
        }
        self.name = f"{init}/{settings.name}"
        self.study = optuna.create_study(study_name=self.name, sampler=samplers[self.sampler](), direction="minimize")
        if self.sampler == "grid":
            choices = {name: d.choices for name, d in self.dimensions.items() if isinstance(d, CategoricalDistribution)}
            grid = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
            for values in grid:
                self.study.enqueue_trial(values)
            self.total = len(grid)
        else:
            self.total = settings.num_trials or search.num_trials
        self.asked = 0

    def next_cohort(self) -> list[tuple[int, Point]]:
        """The next points with their numbers; empty when all are handed out. Tell results between calls."""
        size = min(COHORT, self.total - self.asked) if self.sampler == "tpe" else self.total - self.asked
        trials = [self.study.ask(self.dimensions) for _ in range(size)]
        self.asked += size
        return [(trial.number, self._point(trial.params)) for trial in trials]

    def tell(self, number: int, result: Result) -> None:
        """What came of point ``number``; a trial without a value counts as failed."""
        if result.value is None:
            self.study.tell(number, state=TrialState.FAIL)
        else:
            self.study.tell(number, result.value)

    def _point(self, values: dict[str, Any]) -> Point:
        own = self.settings
        return Point(
            self.init,
            own.name,
            {key: values[f"parameters.{key}"] for key in own.parameters},
            values["learning_rate"],
            values["seed"],
            values["sft_weight"],
            values["align_weight"],
            values[FRACTION],
            {key: values[f"training.{key}"] for key in own.training},
        )


def _dimensions(settings: MethodSettings, search: SearchSettings, fraction: Values) -> dict[str, Values]:
    return {
        **{f"parameters.{key}": value for key, value in settings.parameters.items()},
        "learning_rate": settings.learning_rate or search.learning_rate,
        "seed": search.seeds,
        "sft_weight": settings.sft_weight,
        "align_weight": settings.align_weight,
        FRACTION: settings.fraction or fraction,
        **{f"training.{key}": value for key, value in settings.training.items()},
    }


def _distribution(value: Values) -> BaseDistribution:
    if isinstance(value, Range):
        return FloatDistribution(value.low, value.high, log=value.log)
    return CategoricalDistribution(value)


def groups(search: SearchSettings, fraction: Values = (1.0,)) -> list[Group]:
    """One group per start and method entry, in the study's order; ``fraction`` is of the training pairs."""
    return [Group(init, method, search, fraction) for method in search.methods for init in search.starts_of(method)]


def export(groups: list[Group], url: str) -> None:
    """Copy every group's Optuna study into one storage, for optuna-dashboard and Optuna's own tools."""
    taken: dict[str, int] = {}
    for group in groups:
        taken[group.name] = taken.get(group.name, 0) + 1
        name = group.name if taken[group.name] == 1 else f"{group.name}#{taken[group.name]}"
        optuna.copy_study(
            from_study_name=group.study.study_name,
            from_storage=storage_of(group.study),
            to_storage=url,
            to_study_name=name,
        )
