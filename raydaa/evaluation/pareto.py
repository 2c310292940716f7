"""Which models nobody beats in quality and distance at once. numpy only."""

from collections.abc import Sequence

import numpy as np


def pareto_front(kl: Sequence[float], quality: Sequence[float]) -> list[int]:
    """Indices of points that no other beats (KL at most as high, quality at least as high, one strictly), by KL."""
    x, y = np.asarray(kl, float), np.asarray(quality, float)
    front = []
    for i in range(len(x)):
        beaten = (x <= x[i]) & (y >= y[i]) & ((x < x[i]) | (y > y[i]))
        if not beaten.any():
            front.append(i)
    return sorted(front, key=lambda i: (x[i], i))
