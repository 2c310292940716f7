"""The report: hostile text stays text, and what it says is what the study's folder holds."""

import base64
import hashlib
import html
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from markupsafe import escape
from plotly.offline import get_plotlyjs

from raydaa.evaluation.comparison import Comparison
from raydaa.pipeline.versions import note_versions
from raydaa.reporting.chart import ParallelChart
from raydaa.reporting.charts import charts
from raydaa.reporting.costs import costs
from raydaa.reporting.page import latex_table, script
from raydaa.reporting.report import answer_of
from raydaa.reporting.results import TrialResults
from raydaa.reporting.samples import SCHEMA, samples, shown
from raydaa.reporting.search_charts import search_charts
from raydaa.reporting.summary import summarize
from raydaa.reporting.tables import costs_table
from raydaa.reporting.with_matplotlib import figure_of
from raydaa.reporting.with_plotly import spec_of
from raydaa.status import read_status, render_status
from raydaa.store.artifacts import write_json
from raydaa.store.records import (
    SPENT,
    CostRecord,
    ProgressRecord,
    ReferenceCost,
    SweepRecord,
    TrialRecord,
    TrialState,
    VersionsRecord,
)
from raydaa.store.study_folder import StudyFolder
from tests.reporting.folders import HOSTILE, LABEL, LINK, PROMPTS, hostile_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study folder with its report."""
    study = tmp_path_factory.mktemp("study")
    hostile_study(study)
    TrialResults.load(study).report(study / "report")
    return study


def test_a_report_of_a_folder_that_lost_its_data_report(folder: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    shutil.copytree(folder, study)
    (study / "data.json").unlink()
    (study / "versions.json").unlink(missing_ok=True)
    page = TrialResults.load(study).report(study / "report").read_text()
    assert "All trials" in page
    assert "12 rows" not in page


class Tags(HTMLParser):
    """Names of all tags, every address in the page, and what its scripts hold."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.addresses: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data: str) -> None:
        if self.names and self.names[-1] == "script" and data.strip():
            self.scripts.append(data)


def test_hostile_text_stays_text(folder: Path) -> None:
    page = (folder / "report" / "index.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.names.count("script") == len(tags.scripts) == 3
    data, *code = tags.scripts
    assert code == [get_plotlyjs(), script("report.js")]
    assert "<" not in data
    assert json.loads(data)["questions"][0]["question"] == f"question 0 {HOSTILE}"
    drawn = [address for address in tags.addresses if not address.startswith("#")]
    assert all(address.startswith("data:image/svg+xml;base64,") for address in drawn)
    assert len(drawn) == len(charts(TrialResults.load(folder))) + 2 + 1  # the study's own, and those of two searches
    assert page.count("&lt;/script&gt;") >= 3
    for address in drawn:
        svg = base64.b64decode(address.partition(",")[2]).decode()
        assert "<script" not in svg


def test_only_the_pages_own_scripts_may_run(folder: Path) -> None:
    page = (folder / "report" / "index.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)  # type: ignore[union-attr]
    sources = dict(rule.strip().split(" ", 1) for rule in html.unescape(policy).split(";"))
    assert sources.pop("default-src") == "'none'"
    assert sources.pop("style-src") == "'unsafe-inline'"
    assert sources.pop("img-src") == "data: blob:"
    hashes = [
        base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        for code in (get_plotlyjs(), script("report.js"))
    ]
    assert sources == {"script-src": " ".join(f"'sha256-{each}'" for each in hashes)}


def test_costs_are_counted(folder: Path) -> None:
    found = {row["method"]: row for row in pq.read_table(folder / "report" / "costs.parquet").to_pylist()}
    dpo, nca, other = (found[name] for name in ("dpo", "nca", LINK))
    assert (dpo["trials"], dpo["stopped"], nca["trials"], nca["stopped"]) == (2, 1, 1, 0)
    second = 1 / 3600
    assert dpo["hours"] == pytest.approx(2 * 2 * 2 * second)  # two trials of two seconds on two workers
    assert dpo["saved_by_stopping"] == pytest.approx(2 * 2 * second)  # the other half of one of them
    assert dpo["saved_by_reference"] == pytest.approx(2 * 4 * 2 * 6 / 12 * second)  # 8 pairs each, half a second a pair
    assert nca["saved_by_reference"] == pytest.approx(4 * 2 * 6 / 12 * second)
    assert other["saved_by_reference"] == 0


def test_scores_are_there_unrounded(folder: Path) -> None:
    rows = pq.read_table(folder / "report" / "benchmarks.parquet").to_pylist()
    assert {row["benchmark"] for row in rows} == {LABEL}
    found = {(row["trial"], row["figure"]): row["value"] for row in rows}
    assert found["b", "win_rate.value"] == 75.0
    assert found["a", "length_controlled.standard_error"] == 2.5


def test_every_run_says_what_it_ran_with(tmp_path: Path) -> None:
    for _ in range(2):
        note_versions(StudyFolder(tmp_path))
    versions = StudyFolder(tmp_path).versions
    noted = versions.read()
    assert noted is not None
    (once,) = noted.runs
    assert once["torch"] == version("torch")
    versions.write(VersionsRecord(({**once, "torch": "1.0"},)))
    note_versions(StudyFolder(tmp_path))
    noted = versions.read()
    assert noted is not None
    assert [run["torch"] for run in noted.runs] == ["1.0", once["torch"]]


def test_the_samples_are_whole(folder: Path) -> None:
    found = samples(TrialResults.load(folder))
    assert found.num_rows == 2 * PROMPTS
    fits = shown(found)
    assert [each["prompt_id"] for each in fits["questions"]] == [f"p{i}" for i in range(PROMPTS)]
    assert [each["response"] for each in fits["answers"]] == found["response"].to_pylist()
    row = found.to_pylist()[0]
    assert (row["benchmark"], row["trial"], row["response"]) == ("validation", "b", f"b says 0 {HOSTILE}")
    assert (row["baseline"], row["outcome"], row["first"], row["second"]) == (HOSTILE, 0.0, 1.0, 0.0)
    assert pq.read_table(folder / "report" / "samples.parquet").equals(found)


def test_a_page_holds_the_first_prompts_of_each_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydaa.reporting.samples.ROOM", 1_000)
    prompts = [(name, place) for name in ("one", "two") for _ in range(2) for place in range(30)]
    rows = [{"benchmark": name, "prompt_id": f"{name} {place}", "response": 20 * "a"} for name, place in prompts]
    kept = shown(pa.Table.from_pylist(rows, schema=SCHEMA))
    questions, answers = ([row["prompt_id"] for row in kept[name]] for name in ("questions", "answers"))
    for name in ("one", "two"):
        mine = [each for each in questions if each.startswith(name)]
        assert 5 < len(mine) < 30
        assert mine == [f"{name} {place}" for place in range(len(mine))]
        assert [each for each in answers if each.startswith(name)] == mine * 2  # of both models


def test_page_says_what_was_found(folder: Path) -> None:
    results = TrialResults.load(folder)
    page = (folder / "report" / "index.html").read_text()
    figures = f"win rate 75.0 % [60.0, 80.0] (75.0 without the choice's optimism) on {LABEL} at KL 1.00 nats"
    summary = f"best is nca (beta 0.1, learning rate 0.001), {figures}"
    assert summarize(results) == summary
    assert "<dt>recommended</dt><dd><strong>nca, β 0.1, learning rate 0.001</strong></dd>" in page
    assert "<dt>not told apart from it</dt><dd>dpo (KL 1.00)</dd>" in page
    assert f"Win rates are of {escape(LABEL)}" in page
    assert page.count(str(escape(LABEL))) >= 4  # no score of it stands without
    text = re.sub(r"<[^>]+>", " ", page)
    assert "worker said" in text
    assert [row.method for row in results.best_of_each()] == ["nca", "dpo"]
    markdown = (folder / "report" / "tables.md").read_text()
    assert "| nca | pointwise | 0.1 | 0.001 |" in markdown


def test_latex_is_escaped(folder: Path) -> None:
    text = (folder / "report" / "tables.tex").read_text()
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\end{table}") >= 3
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {6, 9, 12, 13}
    assert latex_table(("a_b", "β"), [["50 %", "x & {y} \\z"]], "–").splitlines()[1:7] == [
        r"\caption{--}",
        r"\begin{tabular}{ll}",
        r"\toprule",
        r"a\_b & $\beta$ \\",
        r"\midrule",
        r"50 \% & x \& \{y\} \textbackslash{}z \\",
    ]


def test_only_what_varied_is_drawn(folder: Path) -> None:
    found = [chart.name for chart in search_charts(StudyFolder(folder))]
    by_name = dict(enumerate(optuna.get_all_study_names(f"sqlite:///{folder / 'optuna.db'}")))
    drawn = {(kind, by_name[int(number)]) for kind, _, number in (name.partition("_") for name in found)}
    assert drawn == {("importance", f"{HOSTILE}/dpo"), ("parallel", f"{HOSTILE}/dpo"), ("parallel", "few")}
    assert search_charts(StudyFolder(folder / "trials")) == []


def test_the_lowest_loss_of_a_search_is_drawn_last_and_red(folder: Path) -> None:
    (chart,) = [chart for chart in search_charts(StudyFolder(folder)) if chart.caption.startswith("few:")]
    assert isinstance(chart, ParallelChart)
    assert [axis.title for axis in chart.axes] == ["held-out preference loss", "learning_rate"]
    first, *_, last = chart.lines
    assert (first.places[0], first.rank, last.places[0], last.rank) == (1.0, 0.0, 0.0, 1.0)
    assert last.facts == ("0.500 nats", "learning_rate 0.0001")
    assert (first.colour, last.colour) == ("#b2bac2", "#d55e00")
    lines = [trace["line"]["color"] for trace in spec_of(chart)["data"]]
    assert lines == [line.colour for line in chart.lines]
    assert [line.get_color() for line in figure_of(chart).axes[0].lines[: len(lines)]] == lines


def test_same_results_same_files(folder: Path, tmp_path: Path) -> None:
    TrialResults.load(folder).report(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {path.name for path in (folder / "report").iterdir()}
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / "report" / name).read_bytes(), name


def test_of_equals_the_nearer_one_to_its_start_is_best(tmp_path: Path) -> None:
    hostile_study(tmp_path)
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    for key, distance in (("a", 1.5), ("b", 2.5)):
        evaluation["trials"][key]["kl"]["per_response"] = distance
        evaluation["trials"][key]["benchmarks"]["validation"]["win_rate"]["value"] = 70.0
    write_json(tmp_path / "evaluation.json", evaluation)
    assert [row.method for row in TrialResults.load(tmp_path).best_of_each()] == ["dpo", "nca"]
    for key in ("a", "b"):
        evaluation["trials"][key]["kl"]["per_response"] = {"a": 2.5, "b": 1.5}[key]
    write_json(tmp_path / "evaluation.json", evaluation)
    assert [row.method for row in TrialResults.load(tmp_path).best_of_each()] == ["nca", "dpo"]


def test_whoever_is_not_told_apart_from_the_best_is_named(folder: Path) -> None:
    results = TrialResults.load(folder)
    other = Comparison("nca", "dpo", 5.0, -1.0, 11.0, 0.1, False, 100, 1000)
    assert dict(answer_of(results, [other]))["not told apart from it"] == "dpo (KL 1.00)"
    assert dict(answer_of(results, [replace(other, different=True)]))["not told apart from it"] == "no other method"


def test_a_loss_that_is_no_number_is_not_the_best(tmp_path: Path) -> None:
    hostile_study(tmp_path)
    (tmp_path / "evaluation.json").unlink()
    log = tmp_path / "trials" / "a" / "metrics.jsonl"
    metrics = json.loads(log.read_text())
    log.write_text(json.dumps({**metrics, "validation/preference_loss": math.nan}) + "\n")
    results = TrialResults.load(tmp_path)
    assert [row.method for row in results.best_of_each()] == ["nca", "dpo"]
    page = results.report(tmp_path / "report").read_text()
    assert "There are no verdicts" in page
    assert 'id="samples"' not in page


def test_a_store_that_does_not_say_what_it_took(tmp_path: Path) -> None:
    hostile_study(tmp_path)
    StudyFolder(tmp_path).costs.write(CostRecord(gpus=2, workers=3, references=(ReferenceCost("sft", ("dpo",), 12),)))
    found = costs(TrialResults.load(tmp_path))
    assert found.reference is None
    assert found.unit == "GPU-hours"
    assert found.methods[0].saved_by_reference is None
    assert found.methods[0].hours == pytest.approx(2 * 2 * 2 * 3 / 3600)


def test_what_a_budget_ended_was_not_stopped_early(tmp_path: Path) -> None:
    hostile_study(tmp_path)
    before = costs(TrialResults.load(tmp_path)).methods[0]
    stopped = next(row for row in TrialResults.load(tmp_path) if row.state == "stopped")
    StudyFolder(tmp_path).trial(stopped.key).record.write(TrialRecord(TrialState.STOPPED, SPENT, retry=True))
    after = costs(TrialResults.load(tmp_path)).methods[0]
    assert (before.stopped, after.stopped) == (1, 0)
    assert before.saved_by_stopping > after.saved_by_stopping == 0.0


def test_what_was_made_of_the_cards_and_what_it_cost(tmp_path: Path) -> None:
    """The report's table and the terminal's line; a price of GPUs says nothing of a study without any."""
    hostile_study(tmp_path)
    place = tmp_path / "trials" / "b" / "metrics.jsonl"
    use = {"mfu": 0.512, "padding": 0.0, "peak_memory": 61.5e9, "attention": "flex"}
    place.write_text(json.dumps({**json.loads(place.read_text()), **use}) + "\n")
    at, size = StudyFolder(tmp_path), CostRecord(gpus=1, workers=8, price_per_gpu_hour=900.0)
    for gpus, expected in ((1, "4.00"), (0, None)):
        at.costs.write(replace(size, gpus=gpus))
        found = costs_table(costs(TrialResults.load(tmp_path)))
        row = dict(zip(found.header, next(row for row in found.rows if row[0] == "nca"), strict=True))
        assert row.get("cost") == expected  # two seconds on eight
        told = [row[name] for name in ("MFU (%)", "padding (%)", "peak memory (GB)", "attention")]
        assert told == ["51.2", "0.0", "61.5", "flex"]
    at.progress.write(ProgressRecord("report", "report", elapsed=1, left=None, at=0))
    trials = at.trial_list.read()
    assert trials is not None
    at.sweep.write(SweepRecord(workers=8, slots=1, trials=trials.trials))
    at.costs.write(size)
    assert render_status(read_status(tmp_path)).splitlines()[-1] == "cost: 0.02 worker-hours; 16.00 for GPUs"
