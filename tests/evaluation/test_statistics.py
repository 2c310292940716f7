"""Win rates, KL and fronts against numbers derived by hand or by enumeration."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from raydaa.evaluation.kl import kl_divergence
from raydaa.evaluation.pareto import pareto_front
from raydaa.evaluation.win_rate import win_rate
from raydaa.judging.rule import compared


def test_win_rate_counts_ties_half() -> None:
    rate = win_rate(np.array([1, 1, 0.5, 0]))
    assert rate.value == 62.5
    assert (rate.wins, rate.ties, rate.losses, rate.prompts) == (50.0, 25.0, 25.0, 4)
    # Standard deviation with ddof 1 of 1, 1, ½, 0 is √(0.6875/3).
    assert rate.standard_error == pytest.approx(100 * math.sqrt(0.6875 / 3) / 2)


def test_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        rate = win_rate((rng.random(200) < 0.7).astype(float))
        covered += rate.low <= 70 <= rate.high
    assert 180 <= covered <= 199


@pytest.mark.parametrize(("rate", "prompts"), [(0.95, 50), (0.9, 20), (0.97, 100)])
def test_intervals_near_the_edge_cover(rate: float, prompts: int) -> None:
    """The percentile bootstrap's covered 91, 89 and 93 % here, and [100, 100] where all was won."""
    rng = np.random.default_rng(0)
    intervals = [win_rate((rng.random(prompts) < rate).astype(float)) for _ in range(2000)]
    assert np.mean([i.low <= 100 * rate <= i.high for i in intervals]) > 0.94
    won = win_rate(np.ones(20))
    assert won.low < 90 < won.high == 100


def test_same_outcomes_same_interval() -> None:
    outcomes = np.random.default_rng(1).integers(0, 3, 50) / 2
    assert win_rate(outcomes) == win_rate(outcomes)


@pytest.mark.parametrize("outcomes", [[], [1.5], [-0.1]])
def test_impossible_outcomes(outcomes: list[float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        win_rate(np.array(outcomes))


def test_kl_of_two_enumerated_models() -> None:
    """Responses of up to three coin-like tokens: the estimate covers the exact KL with its 99 % interval."""
    policy, reference = [0.6, 0.3, 0.1], [0.4, 0.4, 0.2]  # token 2 ends the response
    words = [w for size in (1, 2, 3) for w in itertools.product(range(3), repeat=size) if 2 not in w[:-1]]
    words = [w for w in words if w[-1] == 2 or len(w) == 3]

    def logp(word: tuple[int, ...], model: list[float]) -> float:
        return sum(math.log(model[token]) for token in word)

    chances = np.array([math.exp(logp(w, policy)) for w in words])
    assert chances.sum() == pytest.approx(1)
    exact = sum(p * (logp(w, policy) - logp(w, reference)) for w, p in zip(words, chances, strict=True))
    drawn = [words[i] for i in np.random.default_rng(0).choice(len(words), 4000, p=chances)]
    numbers: Any = [
        np.array([logp(w, policy) - logp(w, reference) for w in drawn]),
        np.array([len(w) for w in drawn]),
    ]
    found = kl_divergence(numbers[0], *numbers, draws=2000)
    assert (found.log_ratio, found.log_ratio_high) == (found.per_response, found.high)
    half_99 = (found.high - found.low) / 2 * 2.576 / 1.96
    assert abs(found.per_response - exact) < half_99
    assert found.per_token == pytest.approx(numbers[0].sum() / numbers[1].sum())


def test_pareto_front_drops_what_is_beaten() -> None:
    kl, quality = [1.0, 2.0, 3.0, 2.5, 1.0], [50, 70, 70, 80, 50]
    # 2 is beaten by 1 (same quality, nearer); equal points stay both.
    assert pareto_front(kl, quality) == [0, 4, 1, 3]


def test_rule_judge_compares_by_reward() -> None:
    verdicts = compared(["a", "b", "c"], [2.0, 1.0, 0.0], [1.0] * 3)
    assert [verdict["outcome"] for verdict in verdicts] == [1.0, 0.5, 0.0]
    assert compared(["a"], [math.nan], [1.0])[0]["outcome"] is None
