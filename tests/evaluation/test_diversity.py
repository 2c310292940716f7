"""Diversity of responses at equal numbers of n-grams."""

import itertools
from math import comb

import numpy as np
import pytest

from raydaa.evaluation.diversity import Grams


def test_of_all_it_is_the_share_of_different_ones() -> None:
    words = Grams(["a b a", "b a"], 1)
    assert words.total == 5
    assert words.diversity(5).value == pytest.approx(2 / 5)
    pairs = Grams(["a b a", "b a"], 2)
    assert pairs.diversity(3).value == pytest.approx(2 / 3)  # ab, ba, ab
    assert Grams(["a", "b"], 2).total == 0  # no pair across responses


def test_of_fewer_it_is_the_mean_over_all_ways_to_draw_them() -> None:
    text = "a a a b b c"
    drawn = [len(set(grams)) for grams in itertools.combinations(text.split(), 3)]
    assert len(drawn) == comb(6, 3)
    assert Grams([text], 1).diversity(3).value == pytest.approx(np.mean(drawn) / 3)


def test_length_alone_changes_nothing() -> None:
    """Twice as many words from the same source: fewer different ones among all, as many among equally many."""
    generator = np.random.default_rng(0)
    words = [f"w{number}" for number in generator.zipf(1.5, 40_000) % 3000]

    def responses(length: int) -> list[str]:
        return [" ".join(words[start : start + length]) for start in range(0, 200 * length, length)]

    short, long = Grams(responses(50), 1), Grams(responses(100), 1)
    assert long.diversity(long.total).value < 0.8 * short.diversity(short.total).value
    assert long.diversity(short.total).value == pytest.approx(short.diversity(short.total).value, rel=0.03)


def test_the_interval_holds_the_mean_of_many_samples() -> None:
    """Of responses that share words inside, which makes prompts differ."""
    generator = np.random.default_rng(1)

    def sample(seed: int) -> Grams:
        own = np.random.default_rng(seed)
        topics = own.integers(0, 40, 100)
        return Grams([" ".join(f"t{t}w{w}" for w in own.zipf(1.7, 20) % 50) for t in topics], 1)

    samples = [sample(int(seed)) for seed in generator.integers(0, 1 << 30, 120)]
    expected = np.mean([one.diversity(2000).value for one in samples])
    held = [one.diversity(2000).low <= expected <= one.diversity(2000).high for one in samples]
    assert 0.85 <= np.mean(held) <= 1.0
