"""The report page: hostile text stays text, and a real browser finds nothing to complain about."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution

from raydaa.artifacts import write_json
from raydaa.reporting import search_figures
from raydaa.reporting.page import latex_table
from raydaa.results import TrialResults

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"
LABEL = "validation (judge gpt-4o, prompt tldr v1)"
FIGURES = {
    "length_controlled": {"value": 61.5, "standard_error": 2.5, "variant": HOSTILE},
    "mean_length": 8.0,
    "mean_characters": 40.0,
    "distinct_1": 0.2,
    "distinct_2": None,
    "cut_share": 0.0,
}


def trial(key: str, method: str, state: str, **changes: Any) -> dict[str, Any]:
    point = {
        "init": "sft",
        "method": method,
        "parameters": {"beta": 0.1},
        "learning_rate": 1e-3,
        "seed": 0,
        "sft_weight": 0.0,
        "align_weight": 1.0,
        "fraction": 1.0,
        "training": {},
    }
    ranking = "pointwise" if method == "nca" else "pairwise"
    traits = {"method": method, "title": method, "ranking": ranking}
    return {"key": key, "state": state, "steps": 4, "label": f"{method} {key}", "point": {**point, **changes}, **traits}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study folder with a finished, a stopped and a failed trial, and hostile text where users' text can come in."""
    study = tmp_path / "study"
    trials = [trial("a", "dpo", "finished"), trial("b", "nca", "finished"), trial("c", "dpo", "stopped")]
    trials.append(trial("d", "orpo", "failed", init=HOSTILE))
    write_json(study / "trials.json", trials)
    for number, entry in enumerate(trials):
        place = study / "trials" / entry["key"]
        reason = f"worker said {HOSTILE}" if entry["state"] == "failed" else ""
        write_json(place / "record.json", {"state": entry["state"], "reason": reason, "retry": False})
        metrics = {
            "step": 4,
            "loss": 0.5,
            "seconds": 2.0,
            "tokens_per_second": 100.0,
            "validation/loss": 0.6,
            "validation/preference_loss": 0.6 - number / 100,
            "validation/rewards/accuracies": 0.6 + number / 100,
            "validation/rewards/margins": 0.1,
        }
        (place / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
    rate = {"value": 70.0, "low": 60.0, "high": 80.0, "wins": 60.0, "ties": 20.0, "losses": 20.0}
    kl = {"per_response": 1.0, "low": 0.9, "high": 1.1, "per_token": 0.1}
    evaluation = {
        key: {"kl": kl, "benchmarks": {"validation": {"win_rate": {**rate, "value": value}, **FIGURES}}}
        for key, value in (("a", 70.0), ("b", 75.0))
    }
    parts = {"benchmarks": [{"name": "validation", "label": LABEL, "baseline": HOSTILE}], "trials": evaluation}
    write_json(study / "evaluation.json", {**parts, "models": {HOSTILE: {"benchmarks": {}}}, "notes": [HOSTILE]})
    write_json(study / "data.json", {"rows": {"train": 10}, "rejected": {HOSTILE: 2}, "notes": {}})
    (study / "study.yaml").write_text(f"name: {HOSTILE}\n")
    search(study, f"{HOSTILE}/dpo", trials=8)
    search(study, "few", trials=4)
    search(study, "all alike", trials=8, alike=True)
    return study


def search(study: Path, name: str, trials: int, alike: bool = False) -> None:
    """An Optuna study in the folder's storage: two settings, of which one never varies."""
    storage = f"sqlite:///{study / 'optuna.db'}"
    made = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    for i in range(trials):
        space = {"learning_rate": CategoricalDistribution([1e-4, 1e-3]), "seed": CategoricalDistribution([0])}
        made.enqueue_trial({"learning_rate": [1e-4, 1e-3][i % 2], "seed": 0})
        made.tell(made.ask(space), 0.5 if alike else 0.5 + i / 100)


class Tags(HTMLParser):
    """Names of all tags and every address in the page."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]


def test_hostile_text_stays_text(folder: Path) -> None:
    page = TrialResults.load(folder).report(folder / "report").read_text()
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.names
    assert all(address.startswith("data:image/svg+xml;base64,") for address in tags.addresses)
    assert len(tags.addresses) == 4 + 2 + 1  # the study's own, and those of two searches
    assert page.count("&lt;/script&gt;") >= 3
    for address in tags.addresses:
        svg = base64.b64decode(address.partition(",")[2]).decode()
        assert "<script" not in svg


def test_page_says_what_was_found(folder: Path) -> None:
    results = TrialResults.load(folder)
    page = results.report(folder / "report").read_text()
    assert (
        f"best is nca (beta 0.1, learning rate 0.001), win rate 75.0 % [60.0, 80.0] on {LABEL} at KL 1.00 nats" in page
    )
    assert f"Win rates are of {LABEL}" in page
    assert page.count(LABEL) >= 4  # no score of it stands without
    text = re.sub(r"<[^>]+>", " ", page)
    assert "worker said" in text
    assert [row.method for row in results.best_of_each()] == ["nca", "dpo"]
    markdown = (folder / "report" / "tables.md").read_text()
    assert "| nca | pointwise | 0.1 | 0.001 |" in markdown


def test_latex_is_escaped(folder: Path) -> None:
    TrialResults.load(folder).report(folder / "report")
    text = (folder / "report" / "tables.tex").read_text()
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\end{table}") >= 3
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} <= {6, 9, 12}
    assert latex_table(("a_b", "β"), [["50 %", "x & {y} \\z"]], "–").splitlines()[1:7] == [
        r"\caption{--}",
        r"\begin{tabular}{ll}",
        r"\toprule",
        r"a\_b & $\beta$ \\",
        r"\midrule",
        r"50 \% & x \& \{y\} \textbackslash{}z \\",
    ]


def test_only_what_varied_is_drawn(folder: Path) -> None:
    found = search_figures.drawers(folder)
    by_name = dict(enumerate(optuna.get_all_study_names(f"sqlite:///{folder / 'optuna.db'}")))
    drawn = {(kind, by_name[int(number)]) for kind, _, number in (name.partition("_") for name in found)}
    assert drawn == {("importance", f"{HOSTILE}/dpo"), ("parallel", f"{HOSTILE}/dpo"), ("parallel", "few")}
    assert search_figures.drawers(folder / "trials") == {}


def test_same_results_same_files(folder: Path) -> None:
    results = TrialResults.load(folder)
    one, other = (results.report(folder / name).read_bytes() for name in ("one", "two"))
    assert one == other


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_shows_it_without_complaint(folder: Path, tmp_path: Path) -> None:
    page = TrialResults.load(folder).report(folder / "report")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--enable-logging=stderr",
    ]
    options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = ["chromium", *options, f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}"]
    result = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert (tmp_path / "page.png").stat().st_size > 10_000
    assert "CONSOLE" not in result.stderr
    dumped = subprocess.run(
        ["chromium", *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert "owned" not in re.search(r"<title>(.*?)</title>", dumped, re.DOTALL).group(1)  # type: ignore[union-attr]
