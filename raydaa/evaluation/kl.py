"""KL(π_θ ‖ π_ref) from the policy's own samples. numpy only."""

from dataclasses import dataclass

import numpy as np

from raydaa.evaluation.win_rate import bootstrap_indices, interval


@dataclass(frozen=True)
class Divergence:
    """Nats per response and per token, each with its 95 % bootstrap interval over prompts."""

    per_response: float
    low: float
    high: float
    per_token: float
    per_token_low: float
    per_token_high: float


def kl_divergence(
    policy_logps: np.ndarray, reference_logps: np.ndarray, lengths: np.ndarray, draws: int = 10_000, seed: int = 0
) -> Divergence:
    """Mean of Σ_t (log π_θ − log π_ref) over responses drawn from the policy, raw log-probabilities of both.

    All arguments have shape ``(responses,)``: summed log-probabilities in nats, and token counts.
    """
    ratios = np.asarray(policy_logps, float) - np.asarray(reference_logps, float)
    lengths = np.asarray(lengths, float)
    if ratios.size == 0 or ratios.shape != lengths.shape:
        raise ValueError("KL needs the log-probabilities and the length of at least one response")
    rows = bootstrap_indices(ratios.size, draws, seed)
    drawn = ratios[rows].mean(axis=1)
    low, high = interval(drawn)
    token_low, token_high = interval(drawn / lengths[rows].mean(axis=1))
    return Divergence(float(ratios.mean()), low, high, float(ratios.sum() / lengths.sum()), token_low, token_high)
