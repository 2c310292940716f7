"""How varied a model's responses are: preference tuning tends to make them longer and more alike. numpy only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HALVES = 64  # random halves of the prompts whose values say how sure one is


@dataclass(frozen=True)
class Diversity:
    """The share of different ones among ``size`` word n-grams drawn from all responses, with its 95 % interval over
    prompts."""

    value: float
    low: float
    high: float
    size: int


class Grams:
    """The word n-grams of a model's responses, none across two of them."""

    def __init__(self, responses: Sequence[str], n: int) -> None:
        numbers: dict[tuple[str, ...], int] = {}
        self.by_response: list[np.ndarray] = []
        for response in responses:
            words = response.split()
            grams = zip(*(words[start:] for start in range(n)), strict=False)
            self.by_response.append(np.array([numbers.setdefault(gram, len(numbers)) for gram in grams], dtype=int))
        self.total = sum(map(len, self.by_response))

    def diversity(self, size: int, seed: int = 0) -> Diversity:
        """The expected share of different ones among ``size`` n-grams (rarefaction, Hurlbert 1971).

        More n-grams of the same text have fewer different ones among them (distinct-n, Li et al. 2016, is of all):
        models are compared at equal numbers. The interval is from random halves of the responses, drawn without
        replacement: a bootstrap sample has responses twice, and is less varied for that alone.
        """
        generator = np.random.default_rng(seed)
        count = len(self.by_response)
        halves: list[float] = []
        for _ in range(HALVES):
            half = generator.permutation(count)[: count // 2]
            grams = [self.by_response[number] for number in half]
            total = sum(map(len, grams))
            if total:
                halves.append(_rarefied(np.concatenate(grams), min(total, max(1, size // 2))))
        value = _rarefied(np.concatenate(self.by_response), size)
        # With half of all left out, halves differ as much as samples of that many would.
        around = 1.96 * float(np.std(halves, ddof=1)) if len(halves) > 1 else 0.0
        return Diversity(value, max(0.0, value - around), min(1.0, value + around), size)


def _rarefied(grams: np.ndarray, size: int) -> float:
    """The expected share of different ones among ``size`` of ``grams`` drawn without replacement."""
    total = len(grams)
    counts = np.bincount(grams)
    frequencies, types = np.unique(counts[counts > 0], return_counts=True)
    expected = 0.0
    for frequency, of_these in zip(frequencies.tolist(), types.tolist(), strict=True):
        others = total - frequency
        missed = math.exp(_log_choose(others, size) - _log_choose(total, size)) if others >= size else 0.0
        expected += of_these * (1 - missed)
    return expected / size


def _log_choose(total: int, size: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(size + 1) - math.lgamma(total - size + 1)
