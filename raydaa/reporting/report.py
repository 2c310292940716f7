"""The report: one self-contained page, and the same as figures, Markdown, LaTeX and Parquet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from raydaa.artifacts import read_json, renew_files
from raydaa.evaluation.comparison import Comparison, verdict
from raydaa.reporting import search_figures
from raydaa.reporting.figures import draw, save
from raydaa.reporting.page import data_url, latex_table, markdown_table, render
from raydaa.results import Judged, TrialResults, TrialRow

CAPTIONS = {
    "pareto": "Quality against distance from the start. The line joins the trials that no other beats in both.",
    "beta_curve": "The best finished trial of each method at each β (over learning rates and seeds).",
    "outcomes": "How the best trial of each method fares against the baseline, prompt by prompt.",
    "sft_curve": "How much SFT each method needs: its best trial from each share of the examples (squares: pointwise).",
    "learning_curves": "Held-out preference loss, by which trials compete; pale curves were stopped early.",
}


@dataclass(frozen=True)
class Table:
    """Cells with what stands above them, for every format."""

    title: str
    header: Sequence[str]
    rows: list[list[str]]


def write_report(results: TrialResults, folder: Path) -> Path:
    """Write page, figures and tables into ``folder``, over those of an older report; other files stay."""

    def fill(temporary: Path) -> None:
        figures = draw(results, temporary)
        comparisons = results.comparisons()
        searches = save(search_figures.drawers(results.folder), temporary)
        pq.write_table(results.table, temporary / "trials.parquet")
        found = tables(results, comparisons)
        compared = _verdict(results, comparisons) if comparisons else ""
        (temporary / "tables.md").write_text(_markdown(results, found, compared), encoding="utf-8")
        (temporary / "tables.tex").write_text(_latex(results, found), encoding="utf-8")
        values = {
            "name": results.folder.name,
            "summary": results.summary(),
            "tables": found,
            "comparison": compared,
            "judged_by": results.judged_by,
            "variants": _variants(results),
            "lost": [row for row in results if row.state != "finished"],
            "figures": [(CAPTIONS[name], data_url(path)) for name, path in figures.items()],
            "searches": [data_url(path) for path in searches.values()],
            "data": read_json(results.folder / "data.json") or {},
            "settings": _text(results.folder / "study.yaml"),
            "judged": results.judged,
            "notes": results.notes,
        }
        (temporary / "index.html").write_text(render("report.html", values), encoding="utf-8")

    renew_files(folder, fill)
    return folder / "index.html"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _with_interval(value: float | None, low: float | None, high: float | None, digits: int = 1) -> str:
    if value is None:
        return "–"
    return f"{value:.{digits}f} [{_number(low, digits)}, {_number(high, digits)}]"


def _settings(row: TrialRow) -> str:
    values = [
        f"{name} {value:g}" for name, value in row.parameters.items() if name not in ("beta", "length_normalized")
    ]
    values += ["from " + row.init] if row.init != "sft" else []
    values += [f"SFT weight {row.sft_weight:g}"] if row.sft_weight else []
    values += [f"alignment weight {row.align_weight:g}"] if row.align_weight != 1 else []
    values += [f"{row.fraction:.3g} of the pairs"] if row.fraction != 1 else []
    values += [f"{name.replace('_', ' ')} {value}" for name, value in row.training.items()]
    return ", ".join(values) or "–"


BEST_HEADER = (
    "method",
    "ranking",
    "β",
    "learning rate",
    "other settings",
    "win rate (%)",
    "KL (nats)",
    "preference loss",
    "accuracy",
    "margin",
    "length",
    "tokens/s",
    "method's cost (s)",
)
PAIRS_HEADER = ("method", "against", "difference (points)", "p", "different", "prompts", "prompts to tell them apart")
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
TRIALS_HEADER = ("trial", "state", "steps", "loss", *BEST_HEADER[5:12], "seconds", "start (s)")


def best_table(results: TrialResults) -> list[list[str]]:
    """The best trial of each method, best first, then the models judged beside them."""
    table = []
    for row in results.best_of_each():
        spent = sum(other.seconds or 0 for other in results if other.method == row.method)
        beta = "–" if row.beta is None else f"{row.beta:g}"
        table.append([row.title, row.ranking, beta, f"{row.learning_rate:g}", _settings(row), *_figures(row)])
        table[-1].append(_number(spent, 1))
    first = results.benchmarks[0].name if results.benchmarks else ""
    for name, model in results.models.items():
        figures = model.get(first, {})
        rest = ["0", "–", "–", "–", _number(figures.get("mean_length"), 1), "–", "–"]
        table.append([f"({name})", "–", "–", "–", "judged beside the trials", _rate(figures.get("win_rate")), *rest])
    return table


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
    controlled, against = figures.get("length_controlled"), judged.baseline.rpartition("/")[2]
    spread = "" if controlled is None or controlled["value"] is None else f" ± {controlled['standard_error'] or 0:.1f}"
    varied = [_changed(figures.get(name), start.get(name), 3) for name in ("distinct_1", "distinct_2")]
    return [
        judged.label,
        title,
        against,
        _rate(figures.get("win_rate")),
        "–" if controlled is None else _number(controlled["value"], 1) + spread,
        _rate(figures.get("arena")),
        _changed(figures.get("mean_characters"), start.get("mean_characters"), 0),
        *varied,
        _number(100 * figures["cut_share"], 1),
    ]


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


def _rate(score: dict[str, Any] | None) -> str:
    return "–" if score is None else _with_interval(score["value"], score["low"], score["high"])


def _changed(value: float | None, start: float | None, digits: int) -> str:
    """A figure, and by how much it differs from the start's."""
    text = _number(value, digits)
    return text if value is None or start is None or value == start else f"{text} ({value - start:+.{digits}f})"


def _variants(results: TrialResults) -> list[str]:
    """How win rates were length-controlled: what the fits knew of the prompts."""
    rows = [*(row.benchmarks for row in results), *results.models.values()]
    found = [
        f"{judged.label}: {row[judged.name]['length_controlled']['variant']}"
        for judged in results.benchmarks
        for row in rows
        if "length_controlled" in row.get(judged.name, {})
    ]
    return list(dict.fromkeys(found))


def pairs_table(comparisons: Sequence[Comparison]) -> list[list[str]]:
    """The methods' best trials against each other."""
    return [
        [
            each.one,
            each.other,
            _with_interval(each.difference, each.low, each.high),
            f"{each.p:.2g}",
            "yes" if each.different else "no",
            str(each.prompts),
            "–" if each.prompts_needed is None else f"{each.prompts_needed:,}",
        ]
        for each in comparisons
    ]


def _verdict(results: TrialResults, comparisons: Sequence[Comparison]) -> str:
    compared = {name for each in comparisons for name in (each.one, each.other)}
    return verdict([row.method for row in results.best_of_each() if row.method in compared], comparisons)


def trials_table(results: TrialResults) -> list[list[str]]:
    """Every trial in the study's order."""
    return [
        [
            row.label,
            row.state,
            f"{row.step}/{row.steps}",
            _number(row.validation_loss, 4),
            *_figures(row),
            _number(row.seconds, 1),
            _number(row.start_seconds),
        ]
        for row in results
    ]


def _figures(row: TrialRow) -> list[str]:
    return [
        _with_interval(row.win_rate, row.win_rate_low, row.win_rate_high),
        _with_interval(row.kl, row.kl_low, row.kl_high, 2),
        _number(row.preference_loss, 3),
        _number(row.validation_accuracy, 3),
        _number(row.validation_margin, 3),
        _number(row.mean_length, 1),
        _number(row.tokens_per_second, 0),
    ]


def tables(results: TrialResults, comparisons: Sequence[Comparison]) -> dict[str, Table]:
    """Every table that the results allow, by name and in the report's order."""
    found = {"best": Table("Best trial of each method", BEST_HEADER, best_table(results))}
    if comparisons:
        found["pairs"] = Table("Methods against each other", PAIRS_HEADER, pairs_table(comparisons))
    if results.benchmarks:
        found["benchmarks"] = Table("Benchmarks", BENCHMARKS_HEADER, benchmark_table(results))
    if results.harness:
        found["harness"] = Table("LM Evaluation Harness", ("task", "metric", *results.harness), harness_table(results))
    found["trials"] = Table("All trials", TRIALS_HEADER, trials_table(results))
    return found


def _latex(results: TrialResults, found: Mapping[str, Table]) -> str:
    """Each table as a ``table`` of its own; they need the package booktabs."""
    judged = f" Win rates are of {results.judged_by}." if results.judged else ""
    captions = {name: f"{table.title}.{judged if name == 'best' else ''}" for name, table in found.items()}
    return "\n".join(latex_table(table.header, table.rows, captions[name]) for name, table in found.items())


def _markdown(results: TrialResults, found: Mapping[str, Table], verdict_on_pairs: str) -> str:
    """The tables below their titles, with what is to be said of them."""
    before = {"pairs": f"{verdict_on_pairs}\n\n"}
    judged = f"Win rates above: {results.judged_by or 'not judged'}\n\n"
    parts = [f"# {results.folder.name}\n\n{results.summary()}"]
    for name, table in found.items():
        heading = f"{judged if name == 'benchmarks' else ''}## {table.title}\n\n{before.get(name, '')}"
        parts.append(heading + markdown_table(table.header, table.rows))
        if name == "benchmarks":
            parts += [f"Length control, {variant}" for variant in _variants(results)]
    return "\n\n".join(parts) + "\n"
