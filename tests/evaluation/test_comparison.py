"""Comparisons of all models on the same prompts."""

import numpy as np
import pytest

from raydaa.evaluation.comparison import compare, holm, tied, verdict
from raydaa.evaluation.seeds import SeedSpread
from raydaa.evaluation.win_rate import bootstrap_counts, bootstrap_indices


def outcomes(*rates: float, prompts: int = 400) -> np.ndarray:
    """Exactly as many wins; which prompts they are is each model's own draw."""
    draw = np.random.default_rng(1)
    return np.array([draw.permutation(np.arange(prompts) < rate * prompts).astype(float) for rate in rates])


def test_clear_differences_hold_and_small_ones_do_not() -> None:
    found = {(c.one, c.other): c for c in compare(["a", "b", "c"], outcomes(0.7, 0.68, 0.3))}
    assert not found["a", "b"].different
    assert found["a", "c"].different
    assert found["b", "c"].different
    clear = found["a", "c"]
    assert clear.low < clear.difference < clear.high
    assert 0 < clear.p < 1e-20
    assert clear.prompts == 400


def test_pairing_tells_apart_what_two_intervals_could_not() -> None:
    """The same prompts are hard for both, and one wins a few more."""
    hard = np.arange(400) % 2 == 0
    one = np.where(hard, 0.0, 1.0)
    other = one.copy()
    other[:24:2] = 1.0
    comparison = compare(["one", "other"], np.array([one, other]))[0]
    assert comparison.difference == pytest.approx(-3.0)
    assert comparison.different


def test_false_alarms_are_as_rare_as_said() -> None:
    """Among four equal models any difference at all is found in at most some 5 % of studies."""
    draw = np.random.default_rng(2)
    alarms = 0
    for _ in range(200):
        same = (draw.random((4, 100)) < 0.5).astype(float)
        alarms += any(c.different for c in compare(list("abcd"), same))
    assert alarms <= 20


def test_prompts_that_one_was_not_judged_on_are_left_out() -> None:
    table = outcomes(0.5, 0.5, prompts=20)
    table[0, :5], table[1, 10:] = np.nan, np.nan
    comparison = compare(["a", "b"], table)[0]
    assert comparison.prompts == 5
    assert comparison.difference == pytest.approx(100 * (table[0, 5:10] - table[1, 5:10]).mean())
    table[1, :10] = np.nan
    assert compare(["a", "b"], table) == []


def test_counts_are_the_bootstraps_draws() -> None:
    values = np.random.default_rng(3).random(30)
    by_rows = values[bootstrap_indices(30, 40, seed=5)].mean(axis=1)
    assert bootstrap_counts(30, 40, seed=5) @ values / 30 == pytest.approx(by_rows)


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.01, 0.02, 0.03]) == [True, True, True]
    assert holm([]) == []


def test_a_difference_in_reach_is_shown_four_times_in_five() -> None:
    """Of three comparisons: the strictest test that Holm asks for."""
    draw = np.random.default_rng(4)
    apart = draw.choice([-1.0, 0.0, 1.0], 300, p=[0.2, 0.6, 0.2])
    base = np.where(apart == -1, 0.0, np.where(apart == 1, 1.0, 0.5))
    reach = compare(["a", "b", "c"], np.array([base, base - apart / 2, base[::-1]]))[0].reach
    # √(0.4/4/300) is the mean's error, 2.394 + 0.842 what Holm's strictest of three tests and the power ask for.
    assert reach == pytest.approx(100 * (2.394 + 0.842) * np.sqrt(0.1 / 300), rel=0.1)


def test_settings_of_which_seeds_move_the_rate_are_told_apart_by_more() -> None:
    """What is sure of two checkpoints is not of two settings: the seeds' part is added twice."""
    table = outcomes(0.7, 0.6)
    spread = SeedSpread(between=0.03**2, between_freedom=20, rest=0.0, rest_freedom=1000, prompts=400)
    checkpoints, settings = compare(["a", "b"], table)[0], compare(["a", "b"], table, spread)[0]
    assert checkpoints.different
    assert not settings.different
    half = (checkpoints.high - checkpoints.low) / 2 / 1.966  # of Student's t with 401 degrees of freedom
    assert settings.reach / checkpoints.reach == pytest.approx(np.sqrt(half**2 + 2 * 3.0**2) / half, rel=0.01)
    start = compare(["a", "start"], table, spread, untrained=[1])[0]
    assert checkpoints.reach < start.reach < settings.reach


def test_what_a_choice_owes_to_chance_is_taken_off() -> None:
    table = outcomes(0.7, 0.6)
    plain, corrected = compare(["a", "b"], table)[0], compare(["a", "b"], table, optimism=[0.05, 0.01])[0]
    assert corrected.difference == pytest.approx(plain.difference - 4.0)
    assert corrected.p > plain.p


def test_groups_of_tied_methods() -> None:
    found = compare(["dpo", "ipo", "nca"], outcomes(0.7, 0.69, 0.3))
    assert tied(["dpo", "ipo", "nca"], found) == [["dpo", "ipo"], ["nca"]]
    within = f"(differences from {found[0].reach:.1f} points on would be seen)"
    assert verdict(["dpo", "ipo", "nca"], found) == f"dpo, ipo are not told apart {within}; better than nca"
    alone = compare(["dpo", "nca"], outcomes(0.7, 0.3))
    assert verdict(["dpo", "nca"], alone) == "dpo is ahead; better than nca"
    equal = compare(["dpo", "ipo"], outcomes(0.7, 0.69))
    assert verdict(["dpo", "ipo"], equal).endswith("would be seen); nobody is told apart from all of them")
