"""Several studies in one report: another model, other data, another seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydaa.evaluation.seeds import mean_over_seeds
from raydaa.evaluation.win_rate import bootstrap_indices, interval
from raydaa.reporting.charts import Studies, all_methods, comparison_charts
from raydaa.reporting.formatting import Table, number
from raydaa.reporting.page import data_url, latex_table, markdown_table, render
from raydaa.reporting.summary import summarize
from raydaa.reporting.tables import settings_of, trial_facts, without_optimism
from raydaa.reporting.with_matplotlib import draw
from raydaa.reporting.with_plotly import spec_of
from raydaa.results import TrialResults
from raydaa.store.artifacts import key_of, read_json, renew_files
from raydaa.store.study_folder import PAGE
from raydaa.store.tables import column, read
from raydaa.training.spec import RunSpec
from raydaa.trial_row import TrialRow


@dataclass(frozen=True)
class BestOfStudy:
    """A method's best trial in one study: its value by what trials are ranked by, with the ends of its interval."""

    study: str
    method: str
    ranking: str
    trial: str
    value: float | None
    low: float | None
    high: float | None
    kl: float | None
    beta: float | None
    learning_rate: float


@dataclass(frozen=True)
class StudiesComparison:
    """Studies by name, what their trials are ranked by, and whether all were measured on the same."""

    studies: dict[str, str]  # folders
    ranked_by: str
    higher_is_better: bool
    alike: bool
    best: tuple[BestOfStudy, ...]


def load_studies(folders: Sequence[Path]) -> Studies:
    """By names that tell them apart; ValueError where one holds no finished sweep, or only some were judged."""
    studies = {name: TrialResults.load(folder) for name, folder in _names(folders).items()}
    if len({results.judged for results in studies.values()}) > 1:
        judged = ", ".join(name for name, results in studies.items() if results.judged)
        raise ValueError(f"only {judged} was judged: win rates and held-out losses can't be compared")
    return studies


def compare_studies(studies: Studies) -> StudiesComparison:
    """The best trials of all, as values."""
    best = []
    for name, results in studies.items():
        for row in results.best_of_each():
            value = results.ranking.value_of(row)
            best.append(
                BestOfStudy(
                    study=name,
                    method=row.title,
                    ranking=row.ranking,
                    trial=row.key,
                    value=value if math.isfinite(value) else None,
                    low=None if row.rate is None else row.rate.low,
                    high=None if row.rate is None else row.rate.high,
                    kl=row.kl,
                    beta=row.beta,
                    learning_rate=row.learning_rate,
                )
            )
    first = next(iter(studies.values())).ranking
    folders = {name: str(results.folder) for name, results in studies.items()}
    ranked_by = f"{first.name} ({first.unit})"
    return StudiesComparison(folders, ranked_by, first.higher_is_better, _alike(studies), tuple(best))


def write_comparison(studies: Studies, target: Path) -> Path:
    """Page, figures and tables on all studies into ``target``; the page's path."""

    def fill(temporary: Path) -> None:
        charts = comparison_charts(studies)
        drawn = draw(charts, temporary)
        tables = {"methods": _methods_table(studies), "rankings": _rankings_table(studies)}
        tables = {name: table for name, table in tables.items() if table.rows}
        pq.write_table(_parquet(studies), temporary / "trials.parquet")
        parts = [f"## {t.title}\n\n{markdown_table(t.header, t.rows)}" for t in tables.values()]
        (temporary / "tables.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        latex = [latex_table(t.header, t.rows, f"{t.title}.") for t in tables.values()]
        (temporary / "tables.tex").write_text("\n".join(latex), encoding="utf-8")
        scores = {name: results.judged_by or "held-out preference loss" for name, results in studies.items()}
        values = {
            "name": ", ".join(studies),
            "studies": [(name, summarize(results), scores[name]) for name, results in studies.items()],
            "alike": _alike(studies),
            "tables": tables,
            "figures": [(chart.name, chart.caption, data_url(drawn[chart.name])) for chart in charts],
        }
        trials = {
            f"{name}/{row.key}": {"label": f"{name}: {row.label}", "facts": trial_facts(row)}
            for name, results in studies.items()
            for row in results
        }
        figures = {chart.name: spec_of(chart) for chart in charts}
        page = {
            "figures": figures,
            "groups": list(studies),
            "trials": trials,
            "benchmarks": [],
            "questions": [],
            "answers": [],
        }
        html = render("compare.html", values, page)
        (temporary / PAGE).write_text(html, encoding="utf-8")

    renew_files(target, fill)
    return target / PAGE


def _names(folders: Sequence[Path]) -> dict[str, Path]:
    """A name for each study: its folder's, with as many parents as tell it from the others."""
    paths = [folder.resolve() for folder in folders]
    for parts in range(1, max(len(path.parts) for path in paths)):
        names = {"/".join(path.parts[-parts:]): path for path in paths}
        if len(names) == len(set(paths)):
            return names
    return {str(path): path for path in paths}


def _alike(studies: Studies) -> bool:
    """Whether all were measured on the same."""
    return len(set(map(_measured_on, studies.values()))) == 1


def _measured_on(results: TrialResults) -> tuple[str, ...]:
    """What scores must have in common to stand beside each other, as far as a study can tell."""
    if results.judged:
        first = results.benchmarks[0]
        return first.label, first.baseline, *_prompts(results.folder / first.questions)
    specs = [read_json(results.at.trial(row.key).spec) for row in results]
    data = [RunSpec.from_json(spec).data for spec in specs if spec is not None]
    return tuple({Path(str(report.validation)).parent.name for report in data})


def _prompts(questions: Path) -> list[str]:
    """Each prompt with what models were compared with: two studies' own baselines need not be the same."""
    if not questions.is_file():
        return []
    table = read(questions)
    names = column(table, "prompt_id")
    baselines = column(table, "baseline")
    return [key_of(prompt=name, baseline=response) for name, response in zip(names, baselines, strict=True)]


def _best(results: TrialResults) -> dict[str, TrialRow]:
    return {row.title: row for row in results.best_of_each()}


def _score(results: TrialResults, row: TrialRow) -> str:
    if results.judged:
        return without_optimism(row, results.optimism_of(row))
    value = results.ranking.value_of(row)
    return number(value if math.isfinite(value) else None, 3)


def _methods_table(studies: Studies) -> Table:
    """A line for each method, three cells for each study."""
    what = "win rate (%)" if next(iter(studies.values())).judged else "held-out preference loss"
    header = ["method", "ranking"]
    for name in studies:
        header += [f"{name}: {what}", "KL (nats)", "settings"]
    rows = []
    for method in all_methods(studies):
        best = [(results, _best(results).get(method)) for results in studies.values()]
        cells = [method, next((row.ranking for _, row in best if row is not None), "–")]
        for results, row in best:
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
        best, outcomes = results.outcomes()
        pairwise = np.array([row.ranking == "pairwise" for row in best], bool)
        if not pairwise.any() or pairwise.all():
            continue
        means = mean_over_seeds(outcomes)
        known = means[:, ~np.isnan(means).any(axis=0)]
        one, other = 100 * known[pairwise].mean(axis=0), 100 * known[~pairwise].mean(axis=0)
        drawn = bootstrap_indices(known.shape[1], 1000, 0)
        rates = [(one.mean(), one[drawn].mean(axis=1)), (other.mean(), other[drawn].mean(axis=1))]
        cells = [f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, (low, high) in ((v, interval(d)) for v, d in rates)]
        cells.append(f"{(one - other).mean():.1f}")  # methods are the sample, and few: prompts say nothing of them
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
