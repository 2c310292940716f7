"""The report: one self-contained page, and the same as figures, Markdown, LaTeX and Parquet."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raydaa.evaluation.comparison import Comparison, verdict
from raydaa.reporting.charts import charts
from raydaa.reporting.costs import Costs, costs
from raydaa.reporting.edges import edges
from raydaa.reporting.formatting import Table
from raydaa.reporting.page import data_url, latex_table, markdown_table, render
from raydaa.reporting.samples import samples, shown
from raydaa.reporting.scores import benchmark_scores, variants
from raydaa.reporting.search_charts import search_charts
from raydaa.reporting.summary import certainty, cost_of_limits, is_better_than_start, nothing_better, summarize
from raydaa.reporting.tables import CORRECTED, settings_of, tables, trial_facts, without_optimism
from raydaa.reporting.with_matplotlib import draw
from raydaa.reporting.with_plotly import spec_of
from raydaa.results import TrialResults
from raydaa.store.artifacts import renew_files
from raydaa.store.records import DataReport, VersionsRecord
from raydaa.store.study_folder import PAGE


def write_report(results: TrialResults, folder: Path) -> Path:
    """Write page, figures and tables into ``folder``, over those of an older report; other files stay."""

    def fill(temporary: Path) -> None:
        comparisons = results.comparisons()
        spent = costs(results)
        answers = samples(results)
        shown_charts = charts(results)
        searches = search_charts(results.at)
        drawn = draw([*shown_charts, *searches], temporary)
        _parquet(results, comparisons, spent, answers, temporary)
        every_table = tables(results, comparisons, spent)
        compared = verdict(_compared(results, comparisons), comparisons) if comparisons else ""
        fits = shown(answers)
        (temporary / "tables.md").write_text(_markdown(results, every_table, compared), encoding="utf-8")
        (temporary / "tables.tex").write_text(_latex(results, every_table), encoding="utf-8")
        values = {
            "name": results.folder.name,
            "summary": summarize(results),
            "answer": answer_of(results, comparisons),
            "tables": every_table,
            "comparison": compared,
            "judged_by": results.judged_by,
            "variants": variants(results),
            "certainty": certainty(results),
            "lost": [row for row in results if not row.finished],
            "figures": [(chart.name, chart.caption, data_url(drawn[chart.name])) for chart in shown_charts],
            "searches": [(chart.name, chart.caption, data_url(drawn[chart.name])) for chart in searches],
            "costs": spent,
            "data": results.at.data_report.read() or DataReport({}, {}, {}, {}),
            "versions": (results.at.versions.read() or VersionsRecord(())).runs,
            "settings": _text(results.at.settings),
            "judged": results.judged,
            "notes": results.notes,
            "shown_prompts": len(fits["questions"]),
            "samples": answers.num_rows,
        }
        page = {
            "figures": {chart.name: spec_of(chart) for chart in [*shown_charts, *searches]},
            "groups": results.methods,
            "trials": {row.key: {"label": row.label, "facts": trial_facts(row)} for row in results},
            "benchmarks": [asdict(benchmark) for benchmark in results.benchmarks],
            **fits,
        }
        html = render("report.html", values, page)
        (temporary / PAGE).write_text(html, encoding="utf-8")

    renew_files(folder, fill)
    return folder / PAGE


def _compared(results: TrialResults, comparisons: Sequence[Comparison]) -> list[str]:
    """Methods that were compared, best first."""
    compared = {name for comparison in comparisons for name in (comparison.one, comparison.other)}
    return [row.title for row in results.best_of_each() if row.title in compared]


def answer_of(results: TrialResults, comparisons: Sequence[Comparison]) -> list[tuple[str, str]]:
    """The question's answer: what to take, how good it is, and what is as good for all that is known."""
    best_rows = results.best_of_each()
    if not best_rows:
        return []
    best = best_rows[0]
    beta = [] if best.beta is None else [f"β {best.beta:g}"]
    what = ", ".join([best.title, *beta, f"learning rate {best.learning_rate:g}", *settings_of(best)])
    names = {"win rate (%)", "KL (nats)", "held-out preference loss"}
    better = is_better_than_start(results, best)
    answer = [("recommended", what) if better else ("recommended", f"{nothing_better(best)}; the best: {what}")]
    answer += [fact for fact in trial_facts(best) if fact[0] in names]
    if best.rate is not None:
        answer.append((CORRECTED, without_optimism(best, results.optimism_of_best)))
    at_edges = [f"{edge.name} ({edge.end})" for edge in edges(results) if edge.row.key == best.key]
    if at_edges:
        answer.append(("at the edge of what was tried", ", ".join(at_edges)))
    if (cost := cost_of_limits(results)) is not None:
        answer.append(("chosen among those with a", cost))
    with_best = [comparison for comparison in comparisons if best.title in (comparison.one, comparison.other)]
    if with_best:
        equals = {
            name for comparison in with_best if not comparison.different for name in (comparison.one, comparison.other)
        } - {best.title}
        names_of = [
            row.title + ("" if row.kl is None else f" (KL {row.kl:.2f})") for row in best_rows if row.title in equals
        ]
        answer.append(("not told apart from it", ", ".join(names_of) or "no other method"))
    return answer


def _parquet(
    results: TrialResults, comparisons: Sequence[Comparison], spent: Costs, answers: pa.Table, folder: Path
) -> None:
    """The figures behind the tables, unrounded."""
    arrow_tables = {"trials": results.table, "best": _best_table(results)}
    arrow_tables |= {"costs": pa.Table.from_pylist(list(map(asdict, spent.methods))), "samples": answers}
    if results.benchmarks:
        arrow_tables["benchmarks"] = benchmark_scores(results)
    if comparisons:
        arrow_tables["pairs"] = pa.Table.from_pylist(list(map(asdict, comparisons)))
    for name, table in arrow_tables.items():
        pq.write_table(table, folder / f"{name}.parquet")


def _best_table(results: TrialResults) -> pa.Table:
    """The methods' best settings, over their seeds."""
    rows: list[dict[str, Any]] = []
    for row in results.best_of_each():
        optimism = {"seeds": len(row.seeds), "optimism": results.optimism_of(row)}
        rows.append({**row.columns(), "judged_by": results.judged_by, **optimism})
    return pa.Table.from_pylist(rows)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _latex(results: TrialResults, tables: Mapping[str, Table]) -> str:
    """Each table as a ``table`` of its own; they need the package booktabs."""
    judged = f" Win rates are of {results.judged_by}." if results.judged else ""
    captions = {name: f"{table.title}.{judged if name == 'best' else ''}" for name, table in tables.items()}
    return "\n".join(latex_table(table.header, table.rows, captions[name]) for name, table in tables.items())


def _markdown(results: TrialResults, tables: Mapping[str, Table], verdict_on_pairs: str) -> str:
    """The tables below their titles, with what is to be said of them."""
    before = {"pairs": f"{verdict_on_pairs}\n\n"}
    judged = f"Win rates above: {results.judged_by or 'not judged'}\n\n"
    parts = [f"# {results.folder.name}\n\n{summarize(results)}", *certainty(results)]
    for name, table in tables.items():
        heading = f"{judged if name == 'benchmarks' else ''}## {table.title}\n\n{before.get(name, '')}"
        parts.append(heading + markdown_table(table.header, table.rows))
        if name == "benchmarks":
            parts += [f"Length control, {variant}" for variant in variants(results)]
    return "\n\n".join(parts) + "\n"
