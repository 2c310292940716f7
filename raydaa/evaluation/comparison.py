"""Which methods are better than which, judged on the same prompts. numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

import numpy as np

from raydaa.evaluation.win_rate import bootstrap_indices, interval

LEVEL = 0.05  # of all comparisons together
POWER = 0.8  # chance to see a difference, for the number of prompts that it takes


@dataclass(frozen=True)
class Comparison:
    """Win rate of ``one`` minus that of ``other`` in points over their common prompts.

    ``p`` is two-sided by paired bootstrap; ``different`` says whether it holds beside all other comparisons (Holm).
    ``prompts_needed`` is how many would show a difference of this size four times in five, None where there is none.
    """

    one: str
    other: str
    difference: float
    low: float
    high: float
    p: float
    different: bool
    prompts: int
    prompts_needed: int | None


def compare(names: Sequence[str], outcomes: np.ndarray, draws: int = 10_000, seed: int = 0) -> list[Comparison]:
    """All pairs of models that have a prompt in common, in the order of ``names``.

    ``outcomes`` (``(models, prompts)``, 1 win, ½ tie, 0 loss against one baseline) has NaN where a model was not judged
    on a prompt. ValueError where there is not one row for each model.
    """
    outcomes = np.asarray(outcomes, float)
    if outcomes.ndim != 2 or len(outcomes) != len(names):
        raise ValueError("outcomes need one row for each model")
    known = ~np.isnan(outcomes)
    pairs = [(i, j) for i, j in combinations(range(len(names)), 2) if (known[i] & known[j]).any()]
    if not pairs:
        return []
    size = outcomes.shape[1]
    apart = np.array([outcomes[i] - outcomes[j] for i, j in pairs])
    common = ~np.isnan(apart)
    apart = np.where(common, apart, 0.0)
    counts = bootstrap_counts(size, draws, seed)
    with np.errstate(invalid="ignore"):  # a draw without any common prompt says nothing
        drawn = (counts @ apart.T) / (counts @ common.T)
    means = [100 * float(scores[shared].mean()) for scores, shared in zip(apart, common, strict=True)]
    spreads = [values[~np.isnan(values)] for values in 100 * drawn.T]
    p_values = [_p_value(values) for values in spreads]
    columns = zip(pairs, means, map(interval, spreads), p_values, holm(p_values), apart, common, strict=True)
    return [
        Comparison(names[i], names[j], mean, low, high, p, different, int(shared.sum()), prompts_needed(values[shared]))
        for (i, j), mean, (low, high), p, different, values, shared in columns
    ]


def _p_value(drawn: np.ndarray) -> float:
    """Two-sided, of bootstrap differences; never 0, for no number of draws shows that."""
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (1 + tail) / (len(drawn) + 1))


def bootstrap_counts(size: int, draws: int, seed: int = 0) -> np.ndarray:
    """How often each row is drawn, ``(draws, size)``: what `bootstrap_indices` draws, for products of matrices."""
    rows = bootstrap_indices(size, draws, seed)
    counts = np.zeros((draws, size))
    np.add.at(counts, (np.arange(draws)[:, None], rows), 1.0)
    return counts


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which hypotheses fall when all of them together may err with probability ``level`` (Holm 1979)."""
    fallen = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > level / (len(p_values) - rank):
            break
        fallen[index] = True
    return fallen


def prompts_needed(differences: np.ndarray) -> int | None:
    """How many prompts show a mean difference like this at 5 % four times in five; None where it is 0."""
    mean = abs(float(differences.mean()))
    if mean == 0 or len(differences) < 2:
        return None
    normal = NormalDist()
    reach = normal.inv_cdf(1 - LEVEL / 2) + normal.inv_cdf(POWER)
    return max(2, int(np.ceil((reach * float(differences.std(ddof=1)) / mean) ** 2)))


def tied(order: Sequence[str], comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Groups of models that no comparison tells apart, neighbours in ``order`` (best first); they may overlap."""
    apart = {frozenset((comparison.one, comparison.other)) for comparison in comparisons if comparison.different}
    groups: list[list[str]] = []
    for start in range(len(order)):
        group = [order[start]]
        for name in order[start + 1 :]:
            if any(frozenset((name, member)) in apart for member in group):
                break
            group.append(name)
        if not groups or not set(group) <= set(groups[-1]):
            groups.append(group)
    return groups


def verdict(order: Sequence[str], comparisons: Sequence[Comparison]) -> str:
    """What the comparisons say of the best of ``order`` (best first), in one sentence."""
    best = tied(order, comparisons)[0]
    apart = {frozenset((comparison.one, comparison.other)) for comparison in comparisons if comparison.different}
    behind = [name for name in order if all(frozenset((name, member)) in apart for member in best)]
    first = f"{', '.join(best)} are tied" if len(best) > 1 else f"{best[0]} is ahead"
    return f"{first}; better than {', '.join(behind)}" if behind else f"{first}; nobody is told apart from all of them"
