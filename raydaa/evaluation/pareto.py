"""Which models nobody beats in quality and distance at once. numpy only."""

from collections.abc import Sequence

import numpy as np

from raydaa.evaluation.win_rate import bootstrap_counts, drawn_means


def pareto_front(kl: Sequence[float], quality: Sequence[float]) -> list[int]:
    """Indices of points that no other beats (KL at most as high, quality at least as high, one strictly), by KL."""
    x, y = np.asarray(kl, float), np.asarray(quality, float)
    front = []
    for i in range(len(x)):
        beaten = (x <= x[i]) & (y >= y[i]) & ((x < x[i]) | (y > y[i]))
        if not beaten.any():
            front.append(i)
    return sorted(front, key=lambda i: (x[i], i))


SURELY = 0.95  # of all draws, in which somebody beats what is off the front
DRAWS = 1000


def possible_front(
    kl: np.ndarray, quality: np.ndarray, groups: Sequence[object], draws: int = DRAWS, seed: int = 0
) -> list[bool]:
    """Which points may be on the front of their group: not beaten in 95 % of all bootstrap draws over prompts.

    ``kl`` is ``(settings, responses)`` and ``quality`` ``(settings, prompts)``, the higher the better, NaN where one is
    not known; where both are over as many prompts, these are the same and are drawn together. Points compete inside
    their group, which is what they started from.
    """
    of_quality = drawn_means(quality, bootstrap_counts(quality.shape[1], draws, seed))
    same = kl.shape[1] == quality.shape[1]
    of_kl = drawn_means(kl, bootstrap_counts(kl.shape[1], draws, seed if same else seed + 1))
    possible: list[bool] = []
    for number, group in enumerate(groups):
        others = [other for other, of_other in enumerate(groups) if of_other == group and other != number]
        nearer = of_kl[:, others] <= of_kl[:, number, None]
        better = of_quality[:, others] >= of_quality[:, number, None]
        strictly = (of_kl[:, others] < of_kl[:, number, None]) | (of_quality[:, others] > of_quality[:, number, None])
        beaten = (nearer & better & strictly).any(axis=1)
        possible.append(bool(beaten.mean() < SURELY))
    return possible
