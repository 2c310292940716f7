"""Win rates with intervals. numpy only."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class WinRate:
    """Percentages over prompts: a win counts 1, a tie ½."""

    value: float
    standard_error: float
    low: float
    high: float
    wins: float
    ties: float
    losses: float
    prompts: int


def bootstrap_indices(size: int, draws: int, seed: int = 0) -> np.ndarray:
    """Rows drawn with replacement, ``(draws, size)``; the same for every model, so that comparisons are paired."""
    return np.random.default_rng(seed).integers(0, size, (draws, size), dtype=np.int32)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap values."""
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def win_rate(outcomes: np.ndarray, draws: int = 10_000, seed: int = 0) -> WinRate:
    """Win rate of ``outcomes`` (1 win, ½ tie, 0 loss; soft preferences in between) with its bootstrap interval."""
    outcomes = np.asarray(outcomes, dtype=float)
    if outcomes.size == 0 or not ((outcomes >= 0) & (outcomes <= 1)).all():
        raise ValueError("outcomes need at least one value, each between 0 and 1")
    size = outcomes.size
    spread = float(outcomes.std(ddof=1)) if size > 1 else float("nan")
    low, high = interval(100 * outcomes[bootstrap_indices(size, draws, seed)].mean(axis=1))
    return WinRate(
        100 * float(outcomes.mean()),
        100 * spread / float(np.sqrt(size)),
        low,
        high,
        100 * float((outcomes > 0.5).mean()),
        100 * float((outcomes == 0.5).mean()),
        100 * float((outcomes < 0.5).mean()),
        size,
    )
