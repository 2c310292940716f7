"""The toy study from the command line, and how it chooses."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from raydaa.cli import main
from raydaa.settings.yaml_file import checked, read_yaml
from raydaa.toy.settings import ToySettings
from raydaa.toy.study import ACCURACIES, _interval, best_table, choose, summary
from raydaa.toy.training import RunResult
from tests.command import Command

SHIPPED = Path(__file__).parents[2] / "search_spaces" / "toy.yaml"
TINY = ["triplets=60", "steps=5", "runs=6", "learning_rates=[0.1, 0.01]", "betas=[1.0]"]


def test_the_shipped_file_is_the_papers_grid() -> None:
    settings = checked(ToySettings, read_yaml(SHIPPED), {}, "toy.yaml")
    assert settings == ToySettings()
    grid = len(settings.learning_rates) * len(settings.betas) * settings.runs
    assert grid * len(settings.rankings) * len(settings.hidden_sizes) == 16_800


def arguments(output: Path, *more: str) -> list[str]:
    values = [*TINY, f"output={output}", *more]
    return ["toy", str(SHIPPED), *(part for value in values for part in ("--set", value))]


def test_it_leaves_page_table_figure_and_every_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(tmp_path / "one")) == 0
    last = capfd.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{tmp_path}/one/index.html: with prompt bias 0 pairwise minus pointwise is ")
    page = (tmp_path / "one" / "index.html").read_text()
    assert "chosen on each half of 6 runs and are reported on the other half" in page
    assert 'src="data:image/svg' in page
    for name in ("accuracy.png", "accuracy.svg", "table.md", "toy.yaml"):
        assert (tmp_path / "one" / name).stat().st_size > 0
    runs = pq.read_table(tmp_path / "one" / "runs.parquet")
    assert runs.num_rows == 2 * 2 * 2 * 6 * 2
    assert set(runs["learning_rate"].to_pylist()) == {0.01, 0.1}
    assert 0.2 < np.mean(runs["accuracy"].to_numpy()) < 1
    assert main(arguments(tmp_path / "two")) == 0
    assert pq.read_table(tmp_path / "two" / "runs.parquet").equals(runs)
    assert (tmp_path / "two" / "index.html").read_text() == page.replace("/one", "/two")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("betas=[0]", "betas[0]: 0: input should be greater than 0"),
        ("betas=[1.0, 1.0]", "betas: [1.0, 1.0] names a value twice"),
        ("rankings=[listwise]", "rankings[0]: 'listwise': input should be 'pairwise' or 'pointwise'"),
        ("runs=3", "runs: 3: input should be greater than or equal to 4"),
        ("train_share=0.999", "train_share: 0.999 of 60 triplets leaves none to test on"),
        ("stepz=3", "stepz: unknown key; choose from adam_betas"),
        ("output=/dev/null/x", "/dev/null/x: can't be written"),
    ],
)
def test_wrong_settings(tmp_path: Path, capfd: pytest.CaptureFixture[str], value: str, message: str) -> None:
    assert main(arguments(tmp_path / "out", value)) == 2
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "out").exists()


def test_a_missing_file(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["toy", "no.yaml"]) == 2
    assert "no.yaml: No such file or directory" in capfd.readouterr().err


def test_killed_it_leaves_no_process(tmp_path: Path) -> None:
    command = Command(tmp_path)
    command.kill_at("runs,", *arguments(tmp_path / "out", "runs=400", "steps=100", "triplets=2000"))
    assert command.wait_until_gone() == {}
    assert not (tmp_path / "out" / "index.html").exists()


def result(ranking: str, run: int, accuracy: list[float]) -> RunResult:
    return RunResult(0.0, ranking, 1, run, np.array(accuracy), np.zeros(len(accuracy)))


def test_the_setting_is_chosen_on_other_runs_than_those_reported() -> None:
    """Each setting shines in one half only; picking it must not flatter the report."""
    values: dict[str, Any] = {"hidden_sizes": (1,), "learning_rates": (0.1, 0.3), "betas": (2.0,), "runs": 4}
    settings = ToySettings(**values, prompt_bias=(0.0,))
    first, second = [0.5, 0.9], [0.8, 0.6]
    results = [result("pairwise", run, first if run < 2 else second) for run in range(4)]
    results += [result("pointwise", run, [0.7, 0.1 + 0.1 * run]) for run in range(4)]
    pairwise, pointwise = choose(settings, results)
    assert (pairwise.learning_rates, pairwise.betas) == ((0.3, 0.1), (2.0, 2.0))
    assert list(pairwise.accuracies) == [0.5, 0.5, 0.6, 0.6]
    assert (pointwise.learning_rates, list(pointwise.accuracies)) == ((0.1, 0.1), [0.7] * 4)
    assert pointwise.standard_error == pytest.approx(0.0)
    row = best_table(settings, [pairwise])[0]
    assert row[:5] == ["0", "1", "pairwise", "0.3 / 0.1", "2"]
    assert row[5].startswith("55.00 [")
    said = summary(settings, [pairwise, pointwise])
    assert said.startswith("with prompt bias 0 pairwise minus pointwise is -15.00 [")
    assert said.endswith("] points at hidden size 1")


def test_the_interval_holds_where_most_runs_are_all_right() -> None:
    """Accuracies of 0 and 1 alone."""
    settings = ToySettings(runs=50)
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        low, high = _interval((generator.random(50) < 0.95).astype(float), settings, ACCURACIES)
        held += low <= 0.95 <= high
    assert held / 400 >= 0.93
