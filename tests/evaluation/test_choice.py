"""What choosing does to values, which points may be on a front, and intervals of skewed and of unbounded values."""

import numpy as np
import pytest

from raydaa.evaluation.comparison import compare
from raydaa.evaluation.kl import kl_divergence, studentised_interval
from raydaa.evaluation.pareto import possible_front
from raydaa.evaluation.seeds import mean_interval, seed_spread
from raydaa.evaluation.selection import optimism_of_choice
from raydaa.evaluation.win_rate import bootstrap_counts


def outcomes_of(rates: list[float], prompts: int, generator: np.random.Generator) -> np.ndarray:
    """``(settings, 1, prompts)``; prompts are easy or hard for all."""
    hard = 0.4 * (generator.random(prompts) - 0.5)
    return (generator.random((len(rates), prompts)) < np.array(rates)[:, None] + hard).astype(float)[:, None]


@pytest.mark.parametrize("spread", [0.0, 0.02])
def test_without_the_choices_optimism_the_best_is_right_on_average(spread: float) -> None:
    generator = np.random.default_rng(0)
    raw, corrected = [], []
    for _ in range(150):
        rates = list(0.6 + spread * generator.standard_normal(16))
        outcomes = outcomes_of(rates, 200, generator)
        groups = {str(number): list(range(4 * number, 4 * number + 4)) for number in range(4)}
        optimism = optimism_of_choice(outcomes, groups, draws=300)
        means = outcomes[:, 0].mean(axis=1)
        best = {name: max(numbers, key=lambda n: means[n]) for name, numbers in groups.items()}
        chosen = best[max(best, key=lambda name: means[best[name]] - optimism.groups[name])]
        raw.append(means[chosen] - rates[chosen])
        corrected.append(raw[-1] - optimism.best)
    assert np.mean(raw) > 0.04
    assert abs(np.mean(corrected)) < 0.2 * np.mean(raw)


def test_where_nothing_is_chosen_there_is_no_optimism() -> None:
    outcomes = outcomes_of([0.5, 0.9], 100, np.random.default_rng(1))
    optimism = optimism_of_choice(outcomes[:1], {"a": [0]}, draws=200)
    assert optimism.groups["a"] == pytest.approx(0, abs=1e-12)
    assert optimism.best == pytest.approx(0, abs=1e-12)
    clear = optimism_of_choice(outcomes, {"a": [0], "b": [1]}, draws=200)  # one is far ahead
    assert clear.best == pytest.approx(0, abs=0.002)


def test_a_front_keeps_what_the_prompts_can_not_rule_out() -> None:
    generator = np.random.default_rng(2)
    quality = outcomes_of([0.6, 0.59, 0.3, 0.6], 200, generator)[:, 0]
    kl = np.abs(generator.normal([[1.0], [1.01], [2.0], [2.0]], 0.3, (4, 200)))
    assert possible_front(kl, quality, ["sft"] * 4)[:3] == [True, True, False]
    # From a start of its own nobody beats it.
    assert possible_front(kl, quality, ["sft", "sft", "base", "sft"])[2]


def test_the_studentised_interval_reaches_up_where_values_are_skewed() -> None:
    generator = np.random.default_rng(3)
    held = plain = 0
    for _ in range(300):
        values = generator.lognormal(0, 1, 50)
        low, high = studentised_interval(values, bootstrap_counts(50, 600))
        held += low <= np.exp(0.5) <= high
        around = 1.96 * values.std(ddof=1) / 50**0.5
        plain += abs(values.mean() - np.exp(0.5)) <= around
    assert held > plain
    assert held / 300 > 0.9
    assert studentised_interval(np.ones(5), bootstrap_counts(5, 50)) == (1.0, 1.0)


def test_one_response_that_makes_most_of_a_kl_is_told() -> None:
    kl = np.array([0.1] * 40 + [30.0])
    found = kl_divergence(kl, kl, np.full(41, 10), draws=200)
    assert found.largest == pytest.approx(30 / 34)
    assert found.heavy
    assert not kl_divergence(np.ones(41), np.ones(41), np.full(41, 10), draws=200).heavy


def test_held_out_losses_are_compared_in_nats() -> None:
    generator = np.random.default_rng(4)
    pairs = generator.normal(0.6, 0.3, 400)
    losses = np.array([pairs, pairs + generator.normal(0.05, 0.1, 400)])[:, None]
    (found,) = compare(["a", "b"], -losses, bounded=False)
    assert found.unit == "nats"
    assert found.different
    assert found.difference == pytest.approx(0.05, abs=0.015)
    assert 0 < found.low < found.difference < found.high
    interval = mean_interval(losses[0])
    assert interval.low < 0.6 < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.97 * 0.3 / 20, rel=0.1)
    seeds = generator.normal(0, 0.05, (3, 2, 1)) + pairs + generator.normal(0, 0.1, (3, 2, 400))
    spread = seed_spread(seeds)
    assert mean_interval(seeds[0], spread).high - mean_interval(seeds[0], spread).low > 1.5 * (
        interval.high - interval.low
    )
