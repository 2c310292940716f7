"""Length-controlled win rates: AlpacaEval's published figures, and what must hold of any."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from raydaa.evaluation.length_control import difficulty_of, length_controlled_win_rate, length_correlation
from raydaa.evaluation.win_rate import win_rate

DRAW = np.random.default_rng(0)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def published(real_data: Path) -> dict[str, Any]:
    """Annotations by model, the rewrites, difficulties, and the figures that stand on the leaderboard."""
    annotations: dict[str, list[dict[str, Any]]] = {}
    for row in pq.read_table(real_data / "lc_fixture_dev" / "annotations.parquet").to_pylist():
        annotations.setdefault(row["model"], []).append(row)
    rewrites = rows_of(real_data / "lc_reference" / "gamed_surrogate.csv")
    gamed = {name: np.array([row[name] for row in rewrites]) for name in rewrites[0]}
    gamed |= {name: gamed[name].astype(float) for name in gamed.keys() - {"baseline_variant"}}
    difficulty = rows_of(real_data / "lc_reference" / "instruction_difficulty.csv")
    return {
        "annotations": {name: sorted(rows, key=lambda row: row["index"]) for name, rows in annotations.items()},
        "gamed": gamed,
        "difficulty": np.array([float(row["instruction_difficulty"]) for row in difficulty]),
        "expected": rows_of(real_data / "lc_fixture_dev" / "expected.csv"),
    }


def columns(rows: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The model's preference (stored as 1 to 2, 0 for a draw) and both lengths."""
    stored = np.array([row["preference"] for row in rows])
    lengths = [np.array([row[name] for row in rows], float) for name in ("len_2", "len_1")]
    return np.where(stored == 0, 0.5, stored - 1), lengths[0], lengths[1]


def test_published_figures(published: dict[str, Any]) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    for expected in published["expected"]:
        preference, own, baseline = columns(published["annotations"][expected["model"]])
        plain = win_rate(preference)
        assert plain.value == pytest.approx(float(expected["win_rate"]), abs=1e-8)
        assert plain.standard_error == pytest.approx(float(expected["standard_error"]), abs=1e-8)
        given = (preference, own, baseline, published["difficulty"], published["gamed"])
        value = float(expected["length_controlled_winrate"])
        assert length_controlled_win_rate(*given, draws=10).value == pytest.approx(value, abs=0.12)
        found = length_controlled_win_rate(*given, C=float(expected["C_of_published_fit"]), draws=10)
        assert found.value == pytest.approx(value, abs=1e-6)
        assert found.predicted_error == pytest.approx(float(expected["lc_standard_error_recomputed"]), abs=1e-6)
        assert found.coefficients is not None
        names = ("coef_tanh_std_delta_len", "coef_instruction_difficulty", "coef_bias")
        assert list(found.coefficients.values()) == pytest.approx([float(expected[name]) for name in names], abs=1e-8)
        assert found.variant.startswith("with difficulty, with the baseline's rewrites, L1 penalty, C = ")


def simulated(size: int, by_length: float, by_model: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Preferences that follow the law: by length and by the model, whose answers are longer."""
    baseline = DRAW.integers(500, 1500, size).astype(float)
    own = baseline + DRAW.normal(400, 500, size)
    apart = baseline - own
    return 1 / (1 + np.exp(-(by_length * np.tanh(apart / apart.std(ddof=1)) + by_model))), own, baseline


def test_length_is_taken_out() -> None:
    """Who wins by length alone would win half of the prompts with answers as long as the baseline's."""
    preference, own, baseline = simulated(400, by_length=-2.0, by_model=0.0)
    assert preference.mean() > 0.6
    found = length_controlled_win_rate(preference, own, baseline, draws=50)
    assert found.value == pytest.approx(50, abs=1e-6)
    assert found.coefficients == pytest.approx({"length": -2.0, "difficulty": 0.0, "model": 0.0}, abs=1e-8)
    assert found.variant == "without difficulty, without the baseline's rewrites"


def test_interval_covers_as_often_as_it_says() -> None:
    """Drawn wins, fitted again: the bootstrap error is that of the estimate over new draws."""
    probability, own, baseline = simulated(300, by_length=-1.0, by_model=0.5)
    values, errors = [], []
    for _ in range(150):
        wins = (DRAW.random(300) < probability).astype(float)
        found = length_controlled_win_rate(wins, own, baseline, draws=100)
        assert found.value is not None
        assert found.standard_error is not None
        values.append(found.value)
        errors.append(found.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)


def test_newton_ends_at_the_optimum() -> None:
    """The gradient is 0 there, whatever the draw and the rewrites."""
    probability, own, baseline = simulated(200, by_length=-1.5, by_model=-1.0)
    wins = (DRAW.random(200) < probability).astype(float)
    index = np.repeat(np.arange(200), 2)
    gamed = {
        "baseline_variant": np.tile(["concise", "verbose"], 200),
        "index": index,
        "len_1": baseline[index],
        "len_2": baseline[index] * np.tile([0.5, 1.6], 200),
        "pseudo_preference": np.tile([0.3, 0.6], 200),
    }
    difficulty = DRAW.normal(size=200)
    found = length_controlled_win_rate(wins, own, baseline, difficulty, gamed, draws=10)
    assert found.coefficients is not None
    w = np.array(list(found.coefficients.values()))
    apart = baseline - own
    x = np.stack([np.tanh(apart / apart.std(ddof=1)), difficulty, np.ones(200)], axis=1)
    gradient = x.T @ (1 / (1 + np.exp(-x @ w)) - wins)
    for variant, preference in (("concise", 0.3), ("verbose", 0.6)):
        mine = gamed["baseline_variant"] == variant
        apart = gamed["len_1"][mine] - gamed["len_2"][mine]
        x = np.stack([np.tanh(apart / apart.std(ddof=1)), difficulty, np.zeros(200)], axis=1)
        gradient += 0.1 * x.T @ (1 / (1 + np.exp(-x @ w)) - preference)
    assert gradient == pytest.approx(np.zeros(3), abs=1e-8)


def test_what_has_no_end_is_not_estimable() -> None:
    """Who wins every prompt: the coefficient of the model grows for ever."""
    found = length_controlled_win_rate(np.ones(50), np.arange(50.0), np.full(50, 20.0))
    assert (found.value, found.standard_error, found.coefficients) == (None, None, None)
    assert found.variant.endswith("not estimable: the fit has no end")


def test_equal_lengths_leave_the_win_rate() -> None:
    wins = (np.arange(40) % 4 == 0).astype(float)
    found = length_controlled_win_rate(wins, np.full(40, 100.0), np.full(40, 100.0), draws=20)
    assert found.value == pytest.approx(25.0)


@pytest.mark.parametrize(
    ("preference", "own", "message"),
    [([], [], "one value for each prompt"), ([0.5], [1.0, 2.0], "one value for each"), ([1.5], [1.0], "not between 0")],
)
def test_wrong_columns(preference: list[float], own: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        length_controlled_win_rate(preference, own, [1.0] * len(preference))


def test_difficulty_where_nobody_published_one() -> None:
    others = np.array([[0.9, 0.0, np.nan], [0.7, 0.0, 0.5], [0.8, 0.0, 0.5], [0.8, 0.0, 0.5], [0.8, 0.0, 0.5]])
    found = difficulty_of(others)
    assert found is not None
    assert found == pytest.approx([np.log(0.8 / 0.2), np.log(0.02 / 0.98), 0.0])
    assert difficulty_of(others[:4]) is None


def test_hopeless_cases_are_refused_by_name() -> None:
    generator = np.random.default_rng(3)
    outcomes = generator.integers(0, 2, 200).astype(float)
    baseline = generator.integers(80, 120, 200).astype(float)
    refused = length_controlled_win_rate(outcomes, baseline + 100, baseline, draws=50)
    assert (refused.value, refused.standard_error) == (None, None)
    assert refused.variant.endswith("not estimable: hardly an answer is as short as the baseline's")
    refused = length_controlled_win_rate(outcomes, baseline - 60, baseline, draws=50)
    assert refused.variant.endswith("not estimable: hardly an answer is as long as the baseline's")
    same = length_controlled_win_rate(outcomes, baseline, baseline, draws=50)  # equal lengths are no such case
    assert same.value == pytest.approx(100 * outcomes.mean())


def test_lengths_of_a_sweep_go_together() -> None:
    generator = np.random.default_rng(4)
    baseline = generator.normal(100, 20, 500)
    common = generator.normal(0, 20, 500)
    sweep = np.array([baseline + common + generator.normal(0, 5, 500) for _ in range(6)])
    strangers = np.array([baseline + generator.normal(0, 20, 500) for _ in range(6)])
    alike = length_correlation(sweep[0], sweep[1:], baseline)
    assert alike is not None
    assert alike > 0.8
    assert abs(length_correlation(sweep[0], strangers, baseline) or 0.0) < 0.15
    assert length_correlation(baseline, strangers, baseline) is None
