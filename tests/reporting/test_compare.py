"""Several studies in one report."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raydaa.cli import main
from raydaa.reporting.compare import load_studies, write_comparison
from raydaa.store.artifacts import read_json, write_json
from tests.reporting.folders import HOSTILE, hostile_study


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two studies of the same name, whose best trials differ by ten points."""
    found = []
    for name, better in (("one", 0.0), ("two", 10.0)):
        study = tmp_path_factory.mktemp(name) / "study"
        hostile_study(study)
        text = read_json(study / "evaluation.json")
        for trial in text["trials"].values():
            rate = trial["benchmarks"]["validation"]["win_rate"]
            rate |= {name: rate[name] + better for name in ("value", "low", "high")}
        write_json(study / "evaluation.json", text)
        found.append(study)
    return found


def test_methods_stand_side_by_side(folders: list[Path], tmp_path: Path) -> None:
    page = write_comparison(load_studies(folders), tmp_path).read_text()
    one, two = (f"{folder.parent.name}/study" for folder in folders)
    table = (tmp_path / "tables.md").read_text()
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines()}
    assert f"{one}: win rate (%)" in lines["method"]
    assert lines["nca"].count("75.0 [60.0, 80.0]") == lines["nca"].count("85.0 [70.0, 90.0]") == 1
    assert "| 1 | 1 | 50.0 [" in lines[one]  # of what judges said, prompt by prompt
    trials = pq.read_table(tmp_path / "trials.parquet")
    assert trials["study"].to_pylist() == [one] * 4 + [two] * 4
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert {f"{one}/a", f"{two}/a"} < set(data["trials"])
    assert data["groups"] == [one, two]
    assert "don't stand beside each other" not in page
    assert HOSTILE not in page
    for name in ("methods.svg", "methods.pdf", "pareto.png", "tables.tex"):
        assert (tmp_path / name).stat().st_size > 500


def test_the_same_as_json(folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *map(str, folders), "--output", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    one, two = told["studies"]
    assert (told["ranked_by"], told["higher_is_better"], told["alike"]) == ("win rate (%)", True, True)
    nca = {
        best["study"]: (best["value"], best["low"], best["high"]) for best in told["best"] if best["method"] == "nca"
    }
    assert nca == {one: (75.0, 60.0, 80.0), two: (85.0, 70.0, 90.0)}
    assert (tmp_path / "index.html").is_file()


def test_other_judges_are_told(folders: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    hostile_study(other)
    text = (other / "evaluation.json").read_text()
    evaluation = json.loads(text)
    evaluation["benchmarks"][0]["label"] = "validation (rule pocket)"
    write_json(other / "evaluation.json", evaluation)
    page = write_comparison(load_studies([folders[0], other]), tmp_path / "out").read_text()
    assert "don't stand beside each other" in page
    assert "other: validation (rule pocket)" in page
    questions = other / "questions" / "questions.parquet"
    (other / "evaluation.json").write_text(text)
    pq.write_table(pq.read_table(questions).slice(1), questions)
    page = write_comparison(load_studies([folders[0], other]), tmp_path / "out").read_text()
    assert "don't stand beside each other" in page


def test_what_cannot_be_compared(folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "unjudged"
    hostile_study(other)
    (other / "evaluation.json").unlink()
    target = ["--output", str(tmp_path / "out")]
    assert main(["compare", str(folders[0]), str(other), *target]) == 2
    assert "only study was judged" in capsys.readouterr().err
    assert main(["compare", str(folders[0]), str(tmp_path), *target]) == 2
    assert "holds no finished sweep" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["compare", str(other), *target]) == 0  # by held-out loss
    assert "held-out preference loss" in (tmp_path / "out" / "tables.md").read_text()
