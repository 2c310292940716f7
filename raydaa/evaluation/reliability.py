"""How far a judge can be trusted: does it look at the order, does it agree with another. numpy only."""

from dataclasses import dataclass

import numpy as np

from raydaa.evaluation.win_rate import bootstrap_indices, interval


@dataclass(frozen=True)
class Reliability:
    """In percent: how often a judge favours what it sees first, and how often it keeps to its word in the other order.

    A judge without an eye for the order favours the first response 50 % of the time.
    """

    first_favoured: float
    low: float
    high: float
    consistent: float
    prompts: int

    @property
    def biased(self) -> bool:
        """Whether the order alone is seen to matter."""
        return not self.low <= 50 <= self.high


def reliability(
    prompts: np.ndarray, first: np.ndarray, second: np.ndarray, draws: int = 10_000, seed: int = 0
) -> Reliability | None:
    """Of a judge that saw both orders: the outcomes of models where they stood first, and second, ``(games,)`` each.

    ``prompts`` says to what they answered: games on one prompt are alike, so prompts are resampled. NaN where an answer
    could not be read; None where no game has both.
    """
    both = ~(np.isnan(first) | np.isnan(second))
    if not both.any():
        return None
    one, other = first[both], second[both]
    names, prompt_index = np.unique(prompts[both], return_inverse=True)
    favoured = 100 * (one + 1 - other) / 2  # what stood first won, once as the model and once as the baseline
    by_prompt = np.bincount(prompt_index, favoured) / np.bincount(prompt_index)
    low, high = interval(by_prompt[bootstrap_indices(len(names), draws, seed)].mean(axis=1))
    consistent = 100 * float((np.sign(one - 0.5) == np.sign(other - 0.5)).mean())
    return Reliability(float(by_prompt.mean()), low, high, consistent, len(names))


def kappa(one: np.ndarray, other: np.ndarray) -> float:
    """Cohen's κ of two judges' verdicts (win, tie or loss) on the same prompts; NaN where both always say the same.

    ValueError where they judged different numbers of prompts, or none.
    """
    a, b = np.sign(np.asarray(one, float) - 0.5), np.sign(np.asarray(other, float) - 0.5)
    if a.shape != b.shape or not a.size:
        raise ValueError("two judges need verdicts on the same prompts")
    chance = sum(float((a == side).mean()) * float((b == side).mean()) for side in (-1, 0, 1))
    return float("nan") if chance == 1 else (float((a == b).mean()) - chance) / (1 - chance)
