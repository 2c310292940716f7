"""Seeds and prompts together, against variances that are derived by hand; and what a choice owes to chance."""

import numpy as np
import pytest
from scipy import stats

from raydaa.evaluation.seeds import seed_spread, variance_of_mean
from raydaa.evaluation.selection import optimism_of_choice
from raydaa.evaluation.student import t_quantile, t_tail
from raydaa.evaluation.win_rate import win_rate


@pytest.mark.parametrize("freedom", [1.0, 2.0, 3.7, 10.0, 57.3, 1e4])
def test_student_is_scipys(freedom: float) -> None:
    for t in (0.0, 0.3, 1.0, 2.5, 12.0, 40.0):
        assert t_tail(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-9, abs=1e-300)
    for level in (0.5, 0.9, 0.95, 0.999):
        assert t_quantile(level, freedom) == pytest.approx(stats.t.ppf((1 + level) / 2, freedom), rel=1e-9)


def test_two_by_two_by_hand() -> None:
    """Two seeds on three prompts: [[1, 0, 1], [0, 0, 1]]."""
    outcomes = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    spread = seed_spread([outcomes])
    assert spread is not None
    # Seeds' means are 2/3 and 1/3: variance 1/18. Left of each cell: ±1/3, ∓1/6, ∓1/6, squares 2·(1/9 + 2/36) = 1/3.
    assert spread.between == pytest.approx(1 / 18)
    assert (spread.between_freedom, spread.rest_freedom, spread.prompts) == (1, 2, 3)
    assert spread.rest == pytest.approx(1 / 6)
    by_prompt = outcomes.mean(axis=0)  # ½, 0, 1: variance ¼
    variance = variance_of_mean(by_prompt, [1 / 2], 3, spread)
    assert variance.value == pytest.approx(1 / 36 + 1 / 12 - 1 / 36)
    assert variance.freedom == pytest.approx(
        (1 / 12) ** 2 / ((1 / 36) ** 2 / 1 + (1 / 12) ** 2 / 2 + (1 / 36) ** 2 / 2)
    )


def test_settings_are_pooled_and_those_with_one_seed_say_nothing() -> None:
    draw = np.random.default_rng(0)
    one, other = draw.random((2, 50)), draw.random((3, 50))
    spread, alone = seed_spread([one, other, draw.random((1, 50))]), [seed_spread([one]), seed_spread([other])]
    assert spread is not None
    parts = [part for part in alone if part is not None]
    assert spread.between == pytest.approx((parts[0].between + 2 * parts[1].between) / 3)
    assert spread.between_freedom == 3
    assert seed_spread([draw.random((1, 50))]) is None


def test_a_settings_interval_holds_what_another_seed_would_change() -> None:
    """Seeds move the rate by 3 points here: a checkpoint's interval covers the setting's rate 70 % of the time."""
    draw = np.random.default_rng(1)
    held = dict.fromkeys(("setting", "checkpoint"), 0)
    for _ in range(300):
        rates = 0.7 + 0.03 * draw.standard_normal((6, 3))
        outcomes = (draw.random((6, 3, 805)) < rates[..., None]).astype(float)
        spread = seed_spread(outcomes)
        whole, one = win_rate(outcomes[0], spread), win_rate(outcomes[0, 0])
        held["setting"] += whole.low <= 70 <= whole.high
        held["checkpoint"] += one.low <= 70 <= one.high
    assert 0.92 < held["setting"] / 300 < 0.985
    assert held["checkpoint"] / 300 < 0.85


def test_values_are_means_over_seeds() -> None:
    figures = win_rate(np.array([[1, 1, 0, 0.5], [1, 0, 0, np.nan]]))
    assert figures.value == pytest.approx(100 * (1 + 0.5 + 0 + 0.5) / 4)
    assert (figures.prompts, figures.seeds) == (4, 2)
    assert (figures.wins, figures.ties, figures.losses) == pytest.approx((300 / 7, 100 / 7, 300 / 7))


def test_the_best_of_equals_is_too_high_by_what_the_bootstrap_says() -> None:
    """Of 25 equal models on 300 prompts the best is too high by 1.97 standard errors (the mean of 25 normal values'
    largest) of what they do not share."""
    draw = np.random.default_rng(2)
    observed, said = [], []
    for _ in range(40):
        outcomes = (draw.random((25, 1, 300)) < 0.5).astype(float)
        observed.append(outcomes.mean(axis=2).max() - 0.5)
        said.append(optimism_of_choice(outcomes, {"all": range(25)}).best)
    assert np.mean(observed) == pytest.approx(1.97 * np.sqrt(0.25 / 300), rel=0.1)
    assert np.mean(said) > 0.5 * np.mean(observed)  # it takes off most, not all


def test_one_setting_has_nothing_to_choose_from() -> None:
    outcomes = (np.random.default_rng(3).random((4, 1, 200)) < 0.5).astype(float)
    optimism = optimism_of_choice(outcomes, {"one": [0], "three": [1, 2, 3]})
    assert optimism.groups["one"] == pytest.approx(0, abs=0.003)
    assert optimism.groups["three"] > 0.005
