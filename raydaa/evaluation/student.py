"""Student's t distribution: what intervals and tests of a mean need of it."""

import math
from statistics import NormalDist

NORMAL = NormalDist()
LARGE = 1e6  # degrees of freedom from which it is the normal distribution
PRECISION = 1e-14


def t_tail(t: float, freedom: float) -> float:
    """The probability of a value beyond ± ``t``, two-sided."""
    t = abs(t)
    if math.isinf(t):
        return 0.0
    if freedom >= LARGE:
        return 2 * NORMAL.cdf(-t)
    return _incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def t_quantile(level: float, freedom: float) -> float:
    """The ``t`` within ± which a share ``level`` of all values lies."""
    low, high = 0.0, 1.0
    while t_tail(high, freedom) > 1 - level:
        low, high = high, 2 * high
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if t_tail(middle, freedom) > 1 - level:
            low = middle
        else:
            high = middle
    return high


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):  # there the fraction of the other tail converges fast
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    # Lentz's method: numerator and denominator of the convergents, as ratios of neighbours.
    upper, lower = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = lower
    term = 0
    while True:
        term += 1
        even = term * (b - term) * x / ((a + 2 * term - 1) * (a + 2 * term))
        lower, upper = 1 / _not_zero(1 + even * lower), _not_zero(1 + even / upper)
        value *= lower * upper
        odd = -(a + term) * (a + b + term) * x / ((a + 2 * term) * (a + 2 * term + 1))
        lower, upper = 1 / _not_zero(1 + odd * lower), _not_zero(1 + odd / upper)
        value *= lower * upper
        if abs(lower * upper - 1) < PRECISION:
            return front * value / a


def _not_zero(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300
