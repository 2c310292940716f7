"""The tables of what benchmarks say of models."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from raydaa.reporting.cells import controlled, number, rate
from raydaa.results import Judged, TrialResults

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
    found = [(row.title, row.init, row.benchmarks) for row in results.best_of_each()]
    found += [(f"({name})", name, figures) for name, figures in results.models.items()]
    return [
        _on_benchmark(judged, title, figures[judged.name], results.models.get(init, {}).get(judged.name, {}))
        for judged in results.benchmarks
        for title, init, figures in found
        if judged.name in figures
    ]


def _on_benchmark(judged: Judged, title: str, figures: dict[str, Any], start: dict[str, Any]) -> list[str]:
    against = judged.baseline.rpartition("/")[2]
    varied = [_changed(figures.get(name), start.get(name), 3) for name in ("distinct_1", "distinct_2")]
    return [
        judged.label,
        title,
        against,
        rate(figures.get("win_rate")),
        controlled(figures),
        rate(figures.get("arena")),
        _changed(figures.get("mean_characters"), start.get("mean_characters"), 0),
        *varied,
        number(100 * figures["cut_share"], 1),
    ]


def benchmark_scores(results: TrialResults) -> pa.Table:
    """All figures of all judged models on all benchmarks, unrounded: a row for each figure."""
    found: list[tuple[str, str | None, dict[str, Any]]] = [(row.label, row.key, row.benchmarks) for row in results]
    found += [(name, None, figures) for name, figures in results.models.items()]
    rows = [
        {"benchmark": judged.label, "model": model, "trial": key, "figure": name, "value": value}
        for judged in results.benchmarks
        for model, key, benchmarks in found
        for name, value in _flat(benchmarks.get(judged.name, {}))
    ]
    names = ("benchmark", "model", "trial", "figure")
    return pa.Table.from_pylist(rows, pa.schema([*((name, pa.string()) for name in names), ("value", pa.float64())]))


def _flat(figures: dict[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        elif isinstance(value, int | float):
            yield f"{above}{name}", value


def harness_table(results: TrialResults) -> list[list[str]]:
    """Tasks and metrics of the LM Evaluation Harness, a column for each model."""
    models = list(results.harness.values())
    names = dict.fromkeys((task, metric) for scores in models for task, found in scores.items() for metric in found)
    return [[task, metric, *(_scored(scores.get(task, {}).get(metric)) for scores in models)] for task, metric in names]


def _scored(score: dict[str, Any] | None) -> str:
    if score is None:
        return "–"
    error = score["standard_error"]
    return f"{score['value']:.3f}" + ("" if error is None else f" ± {error:.3f}")


def _changed(value: float | None, start: float | None, digits: int) -> str:
    """A figure, and by how much it differs from the start's."""
    text = number(value, digits)
    return text if value is None or start is None or value == start else f"{text} ({value - start:+.{digits}f})"


def variants(results: TrialResults) -> list[str]:
    """How win rates were length-controlled: what the fits knew of the prompts."""
    rows = [*(row.benchmarks for row in results), *results.models.values()]
    found = [
        f"{judged.label}: {row[judged.name]['length_controlled']['variant']}"
        for judged in results.benchmarks
        for row in rows
        if "length_controlled" in row.get(judged.name, {})
    ]
    return list(dict.fromkeys(found))
