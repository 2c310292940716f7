"""How sure a mean over training seeds and prompts is: both are drawn, and both are held together. numpy only.

An outcome is setting + seed + prompt + what is left (the response that was drawn, and the judge). A setting's mean over
S seeds and n prompts then has the variance σ²_seed/S + σ²_prompt/n + σ²_rest/(S·n). The seeds' part is pooled over all
settings that were trained with several, since each alone has too few to tell.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from raydaa.evaluation.student import LARGE, t_quantile

LEVEL = 0.95


@dataclass(frozen=True)
class SeedSpread:
    """Of outcomes in [0, 1], pooled over settings: mean squares, with their degrees of freedom.

    ``between`` is of seeds' means over ``prompts`` prompts (σ²_seed + σ²_rest/prompts), ``rest`` what neither seed nor
    prompt explains.
    """

    between: float
    between_freedom: int
    rest: float
    rest_freedom: int
    prompts: float

    def of_means(self, prompts: int) -> float:
        """Variance of seeds' means over so many prompts."""
        return max(0.0, self.between + self.rest * (1 / prompts - 1 / self.prompts))

    @property
    def seed(self) -> float:
        """σ²_seed alone."""
        return max(0.0, self.between - self.rest / self.prompts)


@dataclass(frozen=True)
class Variance:
    """Of a mean, with the degrees of freedom that it is known by (Satterthwaite)."""

    value: float
    freedom: float


def seed_spread(settings: Iterable[np.ndarray]) -> SeedSpread | None:
    """From the outcomes of each setting, ``(seeds, prompts)`` with NaN where one is not known.

    None where no setting has two seeds on two common prompts.
    """
    between = rest = weight = 0.0
    between_freedom = rest_freedom = 0
    for outcomes in settings:
        common = outcomes[:, ~np.isnan(outcomes).any(axis=0)]
        seeds, prompts = common.shape
        if seeds < 2 or prompts < 2:
            continue
        by_seed = common.mean(axis=1)
        by_prompt = common.mean(axis=0)
        left = common - by_seed[:, None] - by_prompt + common.mean()
        between += (seeds - 1) * float(by_seed.var(ddof=1))
        between_freedom += seeds - 1
        rest += float((left**2).sum())
        rest_freedom += (seeds - 1) * (prompts - 1)
        weight += (seeds - 1) / prompts
    if not between_freedom:
        return None
    return SeedSpread(
        between / between_freedom, between_freedom, rest / rest_freedom, rest_freedom, between_freedom / weight
    )


def mean_over_seeds(outcomes: np.ndarray) -> np.ndarray:
    """``(models, seeds, prompts)`` → ``(models, prompts)``, over the seeds that were judged on a prompt."""
    known = ~np.isnan(outcomes)
    counts = known.sum(axis=1)
    sums = np.where(known, outcomes, 0.0).sum(axis=1)
    return np.divide(sums, counts, out=np.full(counts.shape, np.nan), where=counts > 0)


def count_seeds(outcomes: np.ndarray) -> np.ndarray:
    """How many seeds of each model were judged, ``(models,)``."""
    return (~np.isnan(outcomes)).any(axis=2).sum(axis=1)


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float


def mean_interval(values: np.ndarray, spread: SeedSpread | None = None) -> MeanInterval:
    """Of a setting's values, ``(seeds, units)``, NaN where one is not known: Student's interval over units, and over
    seeds with ``spread``."""
    by_seed = values[(~np.isnan(values)).any(axis=1)]
    by_unit = mean_over_seeds(by_seed[None])[0]
    by_unit = by_unit[~np.isnan(by_unit)]
    variance = variance_of_mean(by_unit, [1 / len(by_seed)], len(by_unit), spread)
    around = t_quantile(LEVEL, variance.freedom) * variance.value**0.5 if len(by_unit) > 1 else math.inf
    mean = float(by_unit.mean())
    return MeanInterval(mean, mean - around, mean + around)


def variance_of_mean(
    by_prompt: np.ndarray, shares: Iterable[float], prompts: int, spread: SeedSpread | None
) -> Variance:
    """Of the mean of ``by_prompt``, which are themselves means over seeds, or differences of such means.

    ``shares`` has 1/S for each mean that goes in: one for a setting, two for a difference; ``prompts`` is how many of
    ``by_prompt`` were observed (an interval may add some). Without ``spread`` seeds are held fixed: then the mean is
    of these checkpoints alone.
    """
    size = len(by_prompt)
    sampled = float(by_prompt.var(ddof=1)) / size if size > 1 else float("nan")
    freedom = size - 1
    if spread is None:
        return Variance(sampled, freedom)
    share = sum(shares)
    seeds = share * spread.of_means(prompts)
    rest = share * spread.rest / prompts
    value = seeds + max(0.0, sampled - rest)
    parts = [(seeds, spread.between_freedom)]
    if sampled > rest:
        parts += [(sampled, freedom), (rest, spread.rest_freedom)]
    spreads = sum(part**2 / of for part, of in parts)
    return Variance(value, value**2 / spreads if spreads > 0 else LARGE)
