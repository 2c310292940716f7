"""Several studies in one report: another model, other data, another seed."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from raydaa.evaluation.win_rate import bootstrap_indices, interval
from raydaa.reporting.cells import Table, number, with_interval
from raydaa.reporting.figures import FAMILIES, literal, over_kl, quality, quality_name, save, scaled
from raydaa.reporting.page import data_url, latex_table, markdown_table, render
from raydaa.reporting.plots import KL_AXIS, Spec, kl_places, plain, points, quality_axis
from raydaa.reporting.tables import settings_of, trial_facts
from raydaa.results import TrialResults
from raydaa.store.artifacts import read_json, renew_files
from raydaa.store.tables import read
from raydaa.trial_row import TrialRow

CAPTIONS = {
    "methods": "The best trial of each method in each study.",
    "pareto": "What nobody beats in quality and distance from the start, study by study.",
}
Studies = dict[str, TrialResults]


def write_comparison(folders: Sequence[Path], target: Path) -> Path:
    """Page, figures and tables on all studies into ``target``; returns the page's path.

    ValueError where one of them holds no finished sweep, or only some were judged.
    """
    studies = {name: TrialResults.load(folder) for name, folder in _names(folders).items()}
    if len({results.judged for results in studies.values()}) > 1:
        judged = ", ".join(name for name, results in studies.items() if results.judged)
        raise ValueError(f"only {judged} was judged: win rates and held-out losses can't be compared")

    def fill(temporary: Path) -> None:
        drawn = save({"methods": lambda: _methods(studies), "pareto": lambda: _fronts(studies)}, temporary)
        found = {"methods": _methods_table(studies), "rankings": _rankings_table(studies)}
        found = {name: table for name, table in found.items() if table.rows}
        pq.write_table(_parquet(studies), temporary / "trials.parquet")
        parts = [f"## {t.title}\n\n{markdown_table(t.header, t.rows)}" for t in found.values()]
        (temporary / "tables.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        latex = [latex_table(t.header, t.rows, f"{t.title}.") for t in found.values()]
        (temporary / "tables.tex").write_text("\n".join(latex), encoding="utf-8")
        scores = {name: results.judged_by or "held-out preference loss" for name, results in studies.items()}
        values = {
            "name": ", ".join(studies),
            "studies": [(name, results.summary(), scores[name]) for name, results in studies.items()],
            "alike": len(set(map(_measured_on, studies.values()))) == 1,
            "tables": found,
            "figures": [(name, CAPTIONS[name], data_url(path)) for name, path in drawn.items()],
        }
        trials = {
            f"{name}/{row.key}": {"label": f"{name}: {row.label}", "facts": trial_facts(row)}
            for name, results in studies.items()
            for row in results
        }
        figures = {"methods": _methods_plot(studies), "pareto": _fronts_plot(studies)}
        page = {
            "figures": figures,
            "groups": list(studies),
            "trials": trials,
            "benchmarks": [],
            "questions": [],
            "answers": [],
        }
        html = render("compare.html", values, page)
        (temporary / "index.html").write_text(html, encoding="utf-8")

    renew_files(target, fill)
    return target / "index.html"


def _names(folders: Sequence[Path]) -> dict[str, Path]:
    """A name for each study: its folder's, with as many parents as tell it from the others."""
    paths = [folder.resolve() for folder in folders]
    for parts in range(1, max(len(path.parts) for path in paths)):
        names = {"/".join(path.parts[-parts:]): path for path in paths}
        if len(names) == len(set(paths)):
            return names
    return {str(path): path for path in paths}


def _measured_on(results: TrialResults) -> tuple[str, ...]:
    """What scores must have in common to stand beside each other, as far as a study can tell."""
    if results.judged:
        first = results.benchmarks[0]
        return first.label, first.baseline, *_prompts(results.folder / first.questions)
    settings = [read_json(results.at.trial(row.key).spec) or {} for row in results]
    return tuple({Path(str(each.get("validation"))).parent.name for each in settings})


def _prompts(questions: Path) -> list[str]:
    return read(questions)["prompt_id"].to_pylist() if questions.is_file() else []


def _all_methods(studies: Studies) -> list[str]:
    return list(dict.fromkeys(method for results in studies.values() for method in results.methods))


def _best(results: TrialResults) -> dict[str, TrialRow]:
    return {row.method: row for row in results.best_of_each()}


def _score(results: TrialResults, row: TrialRow) -> str:
    if results.judged:
        return with_interval(row.win_rate, row.win_rate_low, row.win_rate_high)
    value = -results.quality(row)
    return number(value if math.isfinite(value) else None, 3)


def _methods_table(studies: Studies) -> Table:
    """A line for each method, three cells for each study."""
    what = "win rate (%)" if next(iter(studies.values())).judged else "held-out preference loss"
    header = ["method", "ranking"]
    for name in studies:
        header += [f"{name}: {what}", "KL (nats)", "settings"]
    rows = []
    for method in _all_methods(studies):
        found = [(results, _best(results).get(method)) for results in studies.values()]
        cells = [method, next((row.ranking for _, row in found if row is not None), "–")]
        for results, row in found:
            cells += ["–", "–", "–"] if row is None else [_score(results, row), number(row.kl), _settings(row)]
        rows.append(cells)
    return Table("Best trial of each method", header, rows)


def _settings(row: TrialRow) -> str:
    beta = [] if row.beta is None else [f"β {row.beta:g}"]
    return ", ".join([*beta, f"lr {row.learning_rate:g}", *settings_of(row)])


def _rankings_table(studies: Studies) -> Table:
    """Pairwise methods against pointwise ones, where both were judged."""
    rows = []
    for name, results in studies.items():
        methods, outcomes = results.outcomes()
        pairwise = np.array([_best(results)[method].ranking == "pairwise" for method in methods], bool)
        if not pairwise.any() or pairwise.all():
            continue
        known = outcomes[:, ~np.isnan(outcomes).any(axis=0)]
        one, other = 100 * known[pairwise].mean(axis=0), 100 * known[~pairwise].mean(axis=0)
        drawn = bootstrap_indices(known.shape[1], 1000, 0)
        means = [(one.mean(), one[drawn].mean(axis=1)), (other.mean(), other[drawn].mean(axis=1))]
        means.append(((one - other).mean(), (one - other)[drawn].mean(axis=1)))
        cells = [f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, (low, high) in ((v, interval(d)) for v, d in means)]
        rows.append([name, str(int(pairwise.sum())), str(int((~pairwise).sum())), *cells])
    header = ("study", "pairwise methods", "pointwise methods", "pairwise (%)", "pointwise (%)", "difference (points)")
    return Table("Pairwise and pointwise methods", header, rows)


def _parquet(studies: Studies) -> pa.Table:
    """All trials, with the study of each."""
    named = [
        results.table.add_column(0, "study", pa.array([name] * len(results), pa.string()))
        for name, results in studies.items()
    ]
    return pa.concat_tables(named, promote_options="permissive")


def _methods_plot(studies: Studies) -> Spec:
    data = []
    for name, results in studies.items():
        rows = results.best_of_each()
        data.append(_of_study(studies, name, rows, mode="markers", x=[plain(row.method) for row in rows]))
    axis = {"type": "category", "categoryorder": "array", "categoryarray": list(map(plain, _all_methods(studies)))}
    first = next(iter(studies.values()))
    return {"data": data, "layout": {"scattermode": "group", "xaxis": axis, "yaxis": quality_axis(first)}}


def _fronts_plot(studies: Studies) -> Spec:
    fronts = {name: results.pareto_front() for name, results in studies.items()}
    data = [_of_study(studies, name, front, **kl_places(front)) for name, front in fronts.items()]
    return {"data": data, "layout": {"xaxis": KL_AXIS, "yaxis": quality_axis(next(iter(studies.values())))}}


def _of_study(studies: Studies, name: str, rows: Sequence[TrialRow], **more: Any) -> Spec:
    keys = [f"{name}/{row.key}" for row in rows]
    return points(studies[name], rows, name, list(studies).index(name), customdata=keys, **more)


def _methods(studies: Studies) -> Figure:
    methods, first = _all_methods(studies), next(iter(studies.values()))
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for index, (name, results) in enumerate(studies.items()):
        offset = 0.6 * ((index + 0.5) / len(studies) - 0.5)
        for method, row in _best(results).items():
            value, below, above = quality(results, row)
            marker, place = FAMILIES[row.ranking][1], methods.index(method) + offset
            axes.errorbar(place, value, yerr=[[below], [above]], color=f"C{index}", marker=marker, ms=5, lw=1)
        axes.plot([], [], color=f"C{index}", marker="o", ls="", label=literal(name))
    axes.set_xticks(range(len(methods)), list(map(literal, methods)), rotation=30, ha="right")
    scaled(axes, first)
    axes.set_ylabel(literal(quality_name(first)))
    axes.legend(frameon=False)
    return figure


def _fronts(studies: Studies) -> Figure:
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for index, (name, results) in enumerate(studies.items()):
        front = results.pareto_front()
        values = [quality(results, row) for row in front]
        bars = [[below for _, below, _ in values], [above for _, _, above in values]]
        places = [row.kl for row in front]
        axes.errorbar(
            places, [value for value, _, _ in values], yerr=bars, color=f"C{index}", ms=4, lw=1, label=literal(name)
        )
        for place, row, (value, _, _) in zip(places, front, values, strict=True):
            axes.plot(place, value, color=f"C{index}", marker=FAMILIES[row.ranking][1], ms=5)
    first = next(iter(studies.values()))
    scaled(axes, first)
    over_kl(axes, first)
    axes.legend(frameon=False)
    return figure
