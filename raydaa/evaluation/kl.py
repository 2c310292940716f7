"""KL(π_θ ‖ π_ref) over the policy's own samples. numpy only."""

from dataclasses import dataclass

import numpy as np

from raydaa.evaluation.seeds import LEVEL, SeedSpread, variance_of_mean
from raydaa.evaluation.student import t_quantile
from raydaa.evaluation.win_rate import bootstrap_counts, interval

HEAVY = 0.2  # share of the sum that one response has from which it is named


@dataclass(frozen=True)
class Divergence:
    """Nats per response and per token, each with its 95 % interval over prompts (of a setting: and seeds).

    ``log_ratio`` is the mean of Σ_t (log π_θ − log π_ref) of the tokens that were drawn: the same on average where
    they were drawn from the model as it is, and noisier. ``largest`` is the share of the sum that one response has.
    """

    per_response: float
    low: float
    high: float
    per_token: float
    per_token_low: float
    per_token_high: float
    log_ratio: float
    log_ratio_low: float
    log_ratio_high: float
    largest: float

    @property
    def heavy(self) -> bool:
        """Whether one response makes so much of it that no interval can be trusted."""
        return self.largest > HEAVY


def kl_divergence(
    kl: np.ndarray, log_ratios: np.ndarray, lengths: np.ndarray, draws: int = 10_000, seed: int = 0
) -> Divergence:
    """Mean of Σ_t KL(π_θ(·|x, y_<t) ‖ π_ref(·|x, y_<t)) over responses drawn from the policy.

    All arguments have shape ``(responses,)``: KL summed over a response's tokens and log-ratio of the tokens that were
    drawn, in nats, and numbers of tokens. Intervals are studentised bootstrap's: KL is skewed, and the percentile
    interval misses too often. ValueError where there is no response.
    """
    kl = np.asarray(kl, float)
    log_ratios = np.asarray(log_ratios, float)
    lengths = np.asarray(lengths, float)
    if kl.size == 0 or not kl.shape == log_ratios.shape == lengths.shape:
        raise ValueError("KL needs the distances, log-ratios and lengths of at least one response")
    counts = bootstrap_counts(kl.size, draws, seed)
    low, high = studentised_interval(kl, counts)
    per_token = float(kl.sum() / lengths.sum())
    # Of a ratio of means: by what each response adds to it (delta method).
    beside = (kl - per_token * lengths) / lengths.mean()
    token_low, token_high = studentised_interval(beside, counts)
    ratio_low, ratio_high = studentised_interval(log_ratios, counts)
    return Divergence(
        per_response=float(kl.mean()),
        low=max(0.0, low),
        high=high,
        per_token=per_token,
        per_token_low=max(0.0, per_token + token_low),
        per_token_high=per_token + token_high,
        log_ratio=float(log_ratios.mean()),
        log_ratio_low=ratio_low,
        log_ratio_high=ratio_high,
        largest=_largest(kl),
    )


def studentised_interval(values: np.ndarray, counts: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The bootstrap-t interval of a mean (Efron and Tibshirani 1993, 12.5); ``counts`` say how often each value is
    drawn, ``(draws, values)``."""
    mean = float(values.mean())
    size = len(values)
    error = float(values.std()) / size**0.5
    if error == 0:
        return mean, mean
    centred = values - mean
    means = counts @ centred / size
    errors = np.sqrt(np.maximum(0.0, counts @ centred**2 / size - means**2) / size)
    drawn = np.divide(means, errors, out=np.zeros_like(means), where=errors > 1e-9 * error)
    lower, upper = interval(drawn, level)
    return mean - upper * error, mean - lower * error


def _largest(kl: np.ndarray) -> float:
    total = float(kl.sum())
    return float(kl.max()) / total if total > 0 else 0.0


def divergence_over_seeds(
    kl: np.ndarray,
    log_ratios: np.ndarray,
    lengths: np.ndarray,
    spread: SeedSpread | None,
    spread_of_ratios: SeedSpread | None,
) -> Divergence:
    """Of a setting: means over its seeds and prompts, ``(seeds, prompts)`` each, with Student's intervals.

    ``spread`` is of KL, pooled over settings, ``spread_of_ratios`` of log-ratios: intervals hold what another seed
    changes.
    """
    value, around = _over_seeds(kl, spread)
    ratio, around_ratio = _over_seeds(log_ratios, spread_of_ratios)
    tokens = float(lengths.mean())
    return Divergence(
        per_response=value,
        low=max(0.0, value - around),
        high=value + around,
        per_token=value / tokens,
        per_token_low=max(0.0, value - around) / tokens,
        per_token_high=(value + around) / tokens,
        log_ratio=ratio,
        log_ratio_low=ratio - around_ratio,
        log_ratio_high=ratio + around_ratio,
        largest=_largest(kl),
    )


def _over_seeds(values: np.ndarray, spread: SeedSpread | None) -> tuple[float, float]:
    """A mean, and how far its interval reaches."""
    by_prompt = values.mean(axis=0)
    variance = variance_of_mean(by_prompt, [1 / len(values)], len(by_prompt), spread)
    return float(by_prompt.mean()), t_quantile(LEVEL, variance.freedom) * variance.value**0.5
