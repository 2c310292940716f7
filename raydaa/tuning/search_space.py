"""Which trials a study asks for: the settings of every start and method, from a grid or by Optuna's samplers."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

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
    """What the sampler learns of a setting that is over: a value to minimise, or None where there is none; whether it
    was stopped, and at which step."""

    value: float | None
    stopped: bool = False
    step: int = 0

    @property
    def state(self) -> TrialState:
        """As Optuna calls it: of a stopped setting the loss at a rung is no loss at the end, which may be higher."""
        if self.value is None:
            return TrialState.FAIL
        return TrialState.PRUNED if self.stopped else TrialState.COMPLETE


class Group:
    """All settings of one start and method entry, drawn in the same order every time.

    Seeds are none of its dimensions: every setting is trained with each of them.
    """

    competes = True

    def __init__(
        self, entry: int, init: str, settings: MethodSettings, search: SearchSettings, fraction: Values
    ) -> None:
        self.entry = entry
        self.init = init
        self.settings = settings
        self.seeds = search.seeds
        self.name = f"{init}/{settings.name}"
        dimensions = _dimensions(settings, search, fraction)
        self.distributions = {name: _distribution(value) for name, value in dimensions.items()}
        # A method with a range has no grid: its points are drawn.
        ranged = any(isinstance(value, Range) for value in dimensions.values())
        if search.sampler == "grid" and not ranged:
            self.source: Source = Grid(self.distributions)
        else:
            kind = "tpe" if search.sampler == "grid" else search.sampler
            self.source = Drawn(self.distributions, kind, settings.num_trials or search.num_trials)
        self.drawn = 0
        self.cohorts = 0

    @property
    def undrawn(self) -> int:
        """Trials of settings that are not drawn yet."""
        return (self.source.total - self.drawn) * len(self.seeds)

    def next_cohort(self) -> list[tuple[int, Point]]:
        """The next settings' numbers, each with a point for every seed; empty when all are handed out.

        Tell results between calls.
        """
        drawn = self.source.draw(self.drawn)
        first = self.drawn
        self.drawn += len(drawn)
        self.cohorts += 1
        numbered = enumerate(drawn, start=first)
        return [(number, self._point(values, seed)) for number, values in numbered for seed in self.seeds]

    def tell(self, number: int, result: Result) -> None:
        """What came of setting ``number``."""
        self.source.tell(number, result)

    def study(self) -> optuna.Study:
        """The search as Optuna has it, with what was told so far."""
        return self.source.study()

    def _point(self, values: dict[str, Any], seed: int) -> Point:
        own = self.settings
        return Point(
            self.init,
            own.name,
            {key: values[f"parameters.{key}"] for key in own.parameters},
            values["learning_rate"],
            seed,
            values["sft_weight"],
            values["align_weight"],
            values[FRACTION],
            {key: values[f"training.{key}"] for key in own.training},
        )


class FinalistGroup:
    """Settings that were chosen, at seeds that they were not chosen by: all are trained, and nobody competes."""

    entry = -1  # of the study file: none
    competes = False

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = list(points)
        self.cohorts = 0

    @property
    def undrawn(self) -> int:
        """Trials that are not drawn yet."""
        return 0 if self.cohorts else len(self.points)

    def next_cohort(self) -> list[tuple[int, Point]]:
        """All of them, once."""
        self.cohorts += 1
        return list(enumerate(self.points)) if self.cohorts == 1 else []

    def tell(self, number: int, result: Result) -> None:
        """No sampler waits for it."""


class Source(Protocol):
    """Where a group's settings come from, ``total`` of them."""

    total: int

    def draw(self, drawn: int) -> list[dict[str, Any]]:
        """The next settings, after so many."""

    def tell(self, number: int, result: Result) -> None:
        """What came of setting ``number``."""

    def study(self) -> optuna.Study:
        """All of them as Optuna has them."""


class Grid:
    """Every combination of values, all at once. Optuna hears of them when they are written down for its tools: it
    compares each setting with every value that the grid has, which takes minutes for thousands."""

    def __init__(self, distributions: dict[str, BaseDistribution]) -> None:
        self.distributions = distributions
        choices = {name: d.choices for name, d in distributions.items() if isinstance(d, CategoricalDistribution)}
        self.settings = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
        self.total = len(self.settings)
        self.results: dict[int, Result] = {}

    def draw(self, drawn: int) -> list[dict[str, Any]]:
        """What was not drawn: at first all, then nothing."""
        return self.settings[drawn:]

    def tell(self, number: int, result: Result) -> None:
        """What came of setting ``number``."""
        self.results[number] = result

    def study(self) -> optuna.Study:
        """All of them as Optuna has them."""
        study = optuna.create_study(direction="minimize")
        trials: list[FrozenTrial] = []
        for number, result in sorted(self.results.items()):
            reported = {} if result.value is None else {result.step: result.value}
            trials.append(
                optuna.trial.create_trial(
                    state=result.state,
                    value=result.value if result.state == TrialState.COMPLETE else None,
                    params=self.settings[number],
                    distributions=self.distributions,
                    intermediate_values=reported if result.stopped else {},
                )
            )
        study.add_trials(trials)
        return study


class Drawn:
    """Settings that Optuna draws: at random all at once, by TPE a cohort after what came of those before."""

    def __init__(self, distributions: dict[str, BaseDistribution], kind: str, total: int) -> None:
        self.distributions = distributions
        self.total = total
        self.cohort = COHORT if kind == "tpe" else total
        sampler = (
            optuna.samplers.TPESampler(seed=0, n_startup_trials=2 * COHORT, multivariate=True)
            if kind == "tpe"
            else optuna.samplers.RandomSampler(seed=0)
        )
        self._study = optuna.create_study(sampler=sampler, direction="minimize")
        self._untold: dict[int, optuna.Trial] = {}

    def draw(self, drawn: int) -> list[dict[str, Any]]:
        """The next cohort."""
        trials = [self._study.ask(self.distributions) for _ in range(min(self.cohort, self.total - drawn))]
        self._untold |= {trial.number: trial for trial in trials}
        return [trial.params for trial in trials]

    def tell(self, number: int, result: Result) -> None:
        """What came of setting ``number``."""
        trial = self._untold.pop(number)
        if result.stopped and result.value is not None:
            trial.report(result.value, result.step)
        value = result.value if result.state == TrialState.COMPLETE else None
        self._study.tell(trial, value, state=None if value is not None else result.state)

    def study(self) -> optuna.Study:
        """All of them as Optuna has them."""
        return self._study


def _dimensions(settings: MethodSettings, search: SearchSettings, fraction: Values) -> dict[str, Values]:
    return {
        **{f"parameters.{key}": value for key, value in settings.parameters.items()},
        "learning_rate": settings.learning_rate or search.learning_rate,
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
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return [
        Group(entry, init, method, search, fraction)
        for entry, method in enumerate(search.methods)
        for init in search.starts_of(method)
    ]


def export(groups: list[Group], url: str) -> None:
    """Copy every group's Optuna study into one storage, for optuna-dashboard and Optuna's own tools."""
    taken: dict[str, int] = {}
    for group in groups:
        taken[group.name] = taken.get(group.name, 0) + 1
        name = group.name if taken[group.name] == 1 else f"{group.name}#{taken[group.name]}"
        study = group.study()
        optuna.copy_study(
            from_study_name=study.study_name,
            from_storage=storage_of(study),
            to_storage=url,
            to_study_name=name,
        )
