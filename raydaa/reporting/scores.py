"""The tables of what benchmarks say of models."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from raydaa.evaluation.figures import BenchmarkFigures, BenchmarkInfo, ModelFigures
from raydaa.reporting.formatting import TWO_SIDED, controlled, number, rate, with_interval
from raydaa.results import TrialResults
from raydaa.store.plain import to_plain
from raydaa.store.records import HarnessScore
from raydaa.store.tables import make_schema

BENCHMARKS_HEADER = (
    "benchmark",
    "model",
    "against",
    "win rate (%)",
    "length-controlled (%)",
    "ArenaHard score (%)",
    "characters",
    "distinct-1",
    "distinct-2",
    "cut (%)",
)


def benchmark_table(results: TrialResults) -> list[list[str]]:
    """What each benchmark says of the best trial of each method and of the models beside them."""
    models = [(row.title, row.init, row.benchmarks) for row in results.best_of_each()]
    models += [(f"({name})", name, model.benchmarks) for name, model in results.models.items()]
    table = []
    for info in results.benchmarks:
        for title, init, benchmarks in models:
            if info.name in benchmarks:
                start = results.models.get(init, ModelFigures()).benchmarks.get(info.name)
                table.append(_on_benchmark(info, title, benchmarks[info.name], start))
    return table


def _on_benchmark(
    info: BenchmarkInfo, title: str, figures: BenchmarkFigures, start: BenchmarkFigures | None
) -> list[str]:
    own = figures.responses
    before = vars(start.responses) if start is not None else dict.fromkeys(vars(own))
    return [
        info.label,
        title,
        info.baseline.rpartition("/")[2],
        rate(figures.win_rate),
        controlled(figures),
        rate(figures.arena),
        _changed(own.mean_characters, before["mean_characters"], 0),
        _varied(own.distinct_1, own.distinct_1_low, own.distinct_1_high, before["distinct_1"]),
        _varied(own.distinct_2, own.distinct_2_low, own.distinct_2_high, before["distinct_2"]),
        number(100 * own.cut_share, 1),
    ]


def benchmark_scores(results: TrialResults) -> pa.Table:
    """All figures of all judged models on all benchmarks, unrounded: a row for each figure."""
    models: list[tuple[str, str | None, dict[str, BenchmarkFigures]]]
    models = [(row.label, row.key, row.benchmarks) for row in results]
    models += [(name, None, model.benchmarks) for name, model in results.models.items()]
    rows = []
    for info in results.benchmarks:
        for model, key, benchmarks in models:
            if info.name in benchmarks:
                about = {"benchmark": info.label, "model": model, "trial": key}
                figures = to_plain(benchmarks[info.name])
                rows += [{**about, "figure": name, "value": value} for name, value in _flat(figures)]
    names = ("benchmark", "model", "trial", "figure")
    return pa.Table.from_pylist(rows, make_schema([*((name, pa.string()) for name in names), ("value", pa.float64())]))


def _flat(figures: dict[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from _flat(value, "" if name == "responses" else f"{above}{name}.")
        elif isinstance(value, int | float):
            yield f"{above}{name}", value


def harness_table(results: TrialResults) -> list[list[str]]:
    """Tasks and metrics of the LM Evaluation Harness, a column for each model."""
    models = list(results.harness.values())
    names = dict.fromkeys((task, metric) for scores in models for task, metrics in scores.items() for metric in metrics)
    return [[task, metric, *(_scored(scores.get(task, {}).get(metric)) for scores in models)] for task, metric in names]


def _scored(score: HarnessScore | None) -> str:
    if score is None:
        return "–"
    if score.standard_error is None:
        return number(score.value, 3)
    around = TWO_SIDED * score.standard_error
    return with_interval(score.value, score.value - around, score.value + around, 3)


def _changed(value: float | None, start: float | None, digits: int) -> str:
    """A figure, and by how much it differs from the start's."""
    text = number(value, digits)
    return text if value is None or start is None or value == start else f"{text} ({value - start:+.{digits}f})"


def _varied(value: float | None, low: float | None, high: float | None, start: float | None) -> str:
    """A share of different n-grams with its interval, and by how much it differs from the start's."""
    shown = _changed(value, start, 3)
    if value is None or low is None or high is None:
        return shown
    share, _, change = shown.partition(" ")
    return " ".join(filter(None, [share, f"[{low:.3f}, {high:.3f}]", change]))


def variants(results: TrialResults) -> list[str]:
    """How win rates were length-controlled: what the fits knew of the prompts, and what they could not tell apart."""
    rows = [(row.title, row.benchmarks) for row in results.best_of_each()]
    models = [*rows, *((name, model.benchmarks) for name, model in results.models.items())]
    notes: dict[str, None] = {}
    for info in results.benchmarks:
        alike: list[str] = []
        for name, benchmarks in models:
            figures = benchmarks.get(info.name)
            fitted = None if figures is None else figures.length_controlled
            if fitted is not None:
                notes[f"{info.label}: {fitted.variant}"] = None
                if fitted.alone is not None and fitted.alike is not None:
                    alike.append(f"{name} {fitted.alike:.2f}")
        if alike:
            notes[
                f"{info.label}: takes out only part of the length's effect, for other models' answers are long where "
                f"a model's are (correlation of {', '.join(alike)}); the value without difficulty stands beside it"
            ] = None
    return list(notes)
