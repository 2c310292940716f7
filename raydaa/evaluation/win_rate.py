"""Win rates with intervals. numpy only."""

from dataclasses import dataclass

import numpy as np

from raydaa.evaluation.seeds import LEVEL, SeedSpread, variance_of_mean
from raydaa.evaluation.student import t_quantile

ADDED = (1.0, 1.0, 0.0, 0.0)  # outcomes that an interval adds, or it would be too narrow near 0 and 100 %


@dataclass(frozen=True)
class WinRate:
    """Percentages over prompts: a win counts 1, a tie ½. Of several seeds the means."""

    value: float
    standard_error: float
    low: float
    high: float
    wins: float
    ties: float
    losses: float
    prompts: int
    seeds: int = 1
    judged: int = 0  # prompts, whether the judge's answer could be read or not
    unread: float = 0.0  # share of verdicts that can't be read, which are left out: had they all been losses, or all
    least: float | None = None  # wins, the value would be this
    most: float | None = None


def bootstrap_indices(size: int, draws: int, seed: int = 0) -> np.ndarray:
    """Rows drawn with replacement, ``(draws, size)``; the same for every model, so that comparisons are paired."""
    return np.random.default_rng(seed).integers(0, size, (draws, size), dtype=np.int32)


def bootstrap_counts(size: int, draws: int, seed: int = 0) -> np.ndarray:
    """How often each row is drawn, ``(draws, size)``: what `bootstrap_indices` draws, for products of matrices."""
    rows = bootstrap_indices(size, draws, seed)
    counts = np.zeros((draws, size))
    np.add.at(counts, (np.arange(draws)[:, None], rows), 1.0)
    return counts


def drawn_means(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means ``(draws, settings)`` of values ``(settings, size)`` over `bootstrap_counts`, NaN left out; 0 where a draw
    holds none that is known."""
    known = ~np.isnan(values)
    means: np.ndarray = (counts @ np.where(known, values, 0.0).T) / np.maximum(counts @ known.T, 1)
    return means


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of bootstrap values."""
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def win_rate(outcomes: np.ndarray, spread: SeedSpread | None = None) -> WinRate:
    """Win rate of ``outcomes`` (1 win, ½ tie, 0 loss; soft preferences in between) with its 95 % interval.

    ``outcomes`` are of one model, ``(prompts,)``, or of a setting's models by seed, ``(seeds, prompts)`` with NaN where
    one is not known. The interval is Student's after two wins and two losses more (Agresti and Coull 1998, here with
    ties): the percentile bootstrap's is too narrow where nearly everything is won, [100, 100] where all is. With
    ``spread`` it is of the setting, whatever the seed; without, of these models. ValueError where no outcome is known,
    or one is out of range.
    """
    by_seed = np.atleast_2d(np.asarray(outcomes, dtype=float))
    known = ~np.isnan(by_seed)
    by_seed = by_seed[known.any(axis=1)]
    known = known[known.any(axis=1)]
    values = by_seed[known]
    if values.size == 0 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("outcomes need at least one value, each between 0 and 1")
    unread = float((~known).mean())
    by_prompt = np.nanmean(by_seed[:, known.any(axis=0)], axis=0)
    prompts = len(by_prompt)
    shares = [1 / len(by_seed)]
    error = variance_of_mean(by_prompt, shares, prompts, spread).value ** 0.5
    more = np.concatenate([by_prompt, ADDED])
    variance = variance_of_mean(more, shares, prompts, spread)
    reach = t_quantile(LEVEL, variance.freedom) * variance.value**0.5
    middle = float(more.mean())
    return WinRate(
        value=100 * float(by_prompt.mean()),
        standard_error=100 * error,
        low=100 * max(0.0, middle - reach),
        high=100 * min(1.0, middle + reach),
        wins=100 * float((values > 0.5).mean()),
        ties=100 * float((values == 0.5).mean()),
        losses=100 * float((values < 0.5).mean()),
        prompts=prompts,
        seeds=len(by_seed),
        judged=known.shape[1],
        unread=100 * unread,
        least=100 * float(np.where(known, by_seed, 0.0).mean()) if unread else None,
        most=100 * float(np.where(known, by_seed, 1.0).mean()) if unread else None,
    )
