"""Comparisons of all models on the same prompts."""

import numpy as np
import pytest

from raydaa.evaluation.comparison import bootstrap_counts, compare, holm, prompts_needed, tied, verdict
from raydaa.evaluation.win_rate import bootstrap_indices


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
    assert clear.p == pytest.approx(2 / 10_001)
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
        alarms += any(c.different for c in compare(list("abcd"), same, draws=500))
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


def test_prompts_needed_show_the_difference_four_times_in_five() -> None:
    draw = np.random.default_rng(4)
    needed = prompts_needed(draw.normal(0.2, 1.0, 100_000))
    assert needed == pytest.approx(196, abs=6)
    samples = draw.normal(0.2, 1.0, (4000, needed or 0))
    seen = np.abs(samples.mean(axis=1)) > 1.96 * samples.std(axis=1, ddof=1) / np.sqrt(needed or 1)
    assert seen.mean() == pytest.approx(0.8, abs=0.03)
    assert prompts_needed(np.zeros(10)) is None


def test_groups_of_tied_methods() -> None:
    found = compare(["dpo", "ipo", "nca"], outcomes(0.7, 0.69, 0.3))
    assert tied(["dpo", "ipo", "nca"], found) == [["dpo", "ipo"], ["nca"]]
    assert verdict(["dpo", "ipo", "nca"], found) == "dpo, ipo are tied; better than nca"
    alone = compare(["dpo", "nca"], outcomes(0.7, 0.3))
    assert verdict(["dpo", "nca"], alone) == "dpo is ahead; better than nca"
    equal = compare(["dpo", "ipo"], outcomes(0.7, 0.69))
    assert verdict(["dpo", "ipo"], equal) == "dpo, ipo are tied; nobody is told apart from all of them"
