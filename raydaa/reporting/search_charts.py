"""The figures of searches, by what Optuna says of them: which setting mattered, and how settings and results go
together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial, TrialState

from raydaa.reporting.chart import AnyChart, Axis, Bar, BarChart, ParallelAxis, ParallelChart, ParallelLine, Part
from raydaa.store.study_folder import StudyFolder

QUALITY = "held-out preference loss"  # what the samplers were told
FEWEST = 8  # trials with a value for which an importance says anything
MOST_TICKS = 12  # of an axis, so that they can be read
IMPORTANCE = Part("importance", "#0072B2", "white")


def search_charts(folder: StudyFolder) -> list[AnyChart]:
    """At most two figures for each search of the study in ``folder``."""
    if not folder.optuna.exists():
        return []
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder.optuna}")
    charts: list[AnyChart] = []
    for number, name in enumerate(optuna.get_all_study_names(storage)):
        study = optuna.load_study(study_name=name, storage=storage)
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        varied = _varied(trials)
        if varied and len(trials) >= FEWEST:
            charts.append(_importance(study, varied, f"importance_{number}"))
        if varied:
            charts.append(_parallel(study, trials, varied, f"parallel_{number}"))
    return charts


def _varied(trials: Sequence[FrozenTrial]) -> list[str]:
    """Settings with more than one value; none where the results are all alike."""
    if len({trial.value for trial in trials}) < 2:
        return []
    return [name for name in trials[0].params if len({trial.params[name] for trial in trials}) > 1]


def _importance(study: optuna.Study, varied: list[str], name: str) -> BarChart:
    importances = get_param_importances(study, params=varied)
    bars = tuple(Bar(setting, "", "", (100 * share,)) for setting, share in importances.items())
    caption = f"{study.study_name}: importance for the {QUALITY}."
    return BarChart(name, caption, Axis("share of what the settings explain (%)"), (IMPORTANCE,), bars)


def _parallel(study: optuna.Study, trials: Sequence[FrozenTrial], varied: list[str], name: str) -> ParallelChart:
    """A line for each trial, through the loss and the settings; the lowest loss is drawn last, over all others."""
    losses = [float(trial.value or 0.0) for trial in trials]
    scales = [
        _Scale.of_numbers(losses),
        *(_Scale.of([trial.params[setting] for trial in trials]) for setting in varied),
    ]
    axes = tuple(ParallelAxis(title, scale.ticks) for title, scale in zip([QUALITY, *varied], scales, strict=True))
    lines: list[ParallelLine] = []
    ranked = sorted(zip(losses, trials, strict=True), key=lambda pair: pair[0], reverse=True)
    for beaten, (loss, trial) in enumerate(ranked):
        values = [loss, *(trial.params[setting] for setting in varied)]
        places = tuple(scale.place(value) for scale, value in zip(scales, values, strict=True))
        facts = (f"{loss:.3f} nats", *(f"{setting} {trial.params[setting]}" for setting in varied))
        lines.append(ParallelLine(places, beaten / (len(ranked) - 1), facts))
    caption = f"{study.study_name}: every trial as a line through its settings."
    return ParallelChart(name, caption, axes, tuple(lines))


@dataclass(frozen=True)
class _Scale:
    """Where a setting's values lie between 0 and 1."""

    places: dict[Any, float]
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: Any) -> float:
        """Of one value."""
        return self.places[value]

    @staticmethod
    def of(values: Sequence[Any]) -> "_Scale":
        """Few values lie at equal distances, as a grid has them; many numbers where they are."""
        choices = list(dict.fromkeys(values))
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in choices)
        if numbers:
            choices.sort()
            if len(choices) > MOST_TICKS:
                return _Scale.of_numbers(choices)
        step = 1 / max(1, len(choices) - 1)
        places = {choice: number * step for number, choice in enumerate(choices)}
        texts = [f"{choice:g}" if numbers else str(choice) for choice in choices]
        return _Scale(places, tuple(zip(places.values(), texts, strict=True)))

    @staticmethod
    def of_numbers(values: Sequence[float]) -> "_Scale":
        """In logarithms, where all are positive and the largest is far above the smallest."""
        low, high = min(values), max(values)
        logarithmic = low > 0 and high > 10 * low
        ends = (math.log(low), math.log(high)) if logarithmic else (low, high)
        span = (ends[1] - ends[0]) or 1.0
        places = {value: ((math.log(value) if logarithmic else value) - ends[0]) / span for value in values}
        ticks: list[tuple[float, str]] = []
        for height in (0.0, 0.25, 0.5, 0.75, 1.0):
            value = ends[0] + height * span
            ticks.append((height, f"{math.exp(value) if logarithmic else value:.3g}"))
        return _Scale(places, tuple(ticks))
