"""Which methods are better than which, judged on the same prompts. numpy only."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

import numpy as np

from raydaa.evaluation.seeds import LEVEL, SeedSpread, count_seeds, mean_over_seeds, variance_of_mean
from raydaa.evaluation.student import t_quantile, t_tail

ERROR = 1 - LEVEL  # of all comparisons together
POWER = 0.8  # chance to see the smallest difference that is said to be within reach
ADDED = (1.0, -1.0)  # differences that an interval adds, or few prompts that differ would make it too narrow


@dataclass(frozen=True)
class Comparison:
    """How much better ``one`` is than ``other``: points of win rate over their common prompts, or nats of held-out loss
    over common pairs.

    ``p`` is Student's, two-sided; ``different`` says whether it holds beside all other comparisons (Holm). ``reach`` is
    the smallest difference that would be shown so four times in five, by as many prompts and seeds.
    """

    one: str
    other: str
    difference: float
    low: float
    high: float
    p: float
    different: bool
    prompts: int
    reach: float
    unit: str = "points"  # or nats

    @property
    def digits(self) -> int:
        """Behind the point, as many as can mean something."""
        return 1 if self.unit == "points" else 3


def compare(
    names: Sequence[str],
    outcomes: np.ndarray,
    spread: SeedSpread | None = None,
    optimism: Sequence[float] | None = None,
    untrained: Collection[int] = (),
    bounded: bool = True,
) -> list[Comparison]:
    """All pairs of models that have a prompt in common, in the order of ``names``.

    ``outcomes`` (``(models, prompts)``, or ``(models, seeds, prompts)``: 1 win, ½ tie, 0 loss against one baseline,
    or, not ``bounded``, any values of which higher ones are better) has NaN where one was not judged. With
    ``spread`` settings are compared, whatever the seed; without, these models. ``optimism`` is by how much each
    model's mean is too high for having been chosen by it; ``untrained`` are the numbers of models that no seed had
    a part in. ValueError where there is not one row for each model.
    """
    outcomes = np.asarray(outcomes, float)
    if outcomes.ndim == 2:
        outcomes = outcomes[:, None]
    if outcomes.ndim != 3 or len(outcomes) != len(names):
        raise ValueError("outcomes need one row for each model")
    means = mean_over_seeds(outcomes)
    seeds = count_seeds(outcomes)
    parts = [0.0 if number in untrained else 1 / max(1, count) for number, count in enumerate(seeds)]
    chosen = np.zeros(len(names)) if optimism is None else np.asarray(optimism, float)
    pairs = [(i, j) for i, j in combinations(range(len(names)), 2) if not np.isnan(means[i] - means[j]).all()]
    unit, most = (100.0, 1.0) if bounded else (1.0, float("inf"))
    compared: list[Comparison] = []
    for i, j in pairs:
        apart = means[i] - means[j]
        apart = apart[~np.isnan(apart)]
        if len(apart) + (len(ADDED) if bounded else 0) < 2:  # one value has no spread
            continue
        shares = [parts[i], parts[j]]
        added = ADDED if bounded else ()
        variance = variance_of_mean(np.concatenate([apart, added]), shares, len(apart), spread)
        error = variance.value**0.5
        difference = float(apart.mean() - (chosen[i] - chosen[j]))
        # The pair that is added pulls towards no difference, as it does the interval's middle.
        middle = difference * len(apart) / (len(apart) + len(added))
        around = t_quantile(LEVEL, variance.freedom) * error
        compared.append(
            Comparison(
                one=names[i],
                other=names[j],
                difference=unit * difference,
                low=unit * max(-most, middle - around),
                high=unit * min(most, middle + around),
                p=t_tail(middle / error, variance.freedom) if error else float(middle == 0),
                different=False,
                prompts=len(apart),
                reach=unit * reach(error, len(pairs)),
                unit="points" if bounded else "nats",
            )
        )
    fallen = holm([comparison.p for comparison in compared])
    return [
        Comparison(**{**vars(comparison), "different": different})
        for comparison, different in zip(compared, fallen, strict=True)
    ]


def reach(error: float, comparisons: int) -> float:
    """The smallest difference that is shown four times in five, when the strictest of so many tests decides (Holm)."""
    normal = NormalDist()
    return (normal.inv_cdf(1 - ERROR / 2 / max(1, comparisons)) + normal.inv_cdf(POWER)) * error


def holm(p_values: Sequence[float], level: float = ERROR) -> list[bool]:
    """Which hypotheses fall when all of them together may err with probability ``level`` (Holm 1979)."""
    fallen = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > level / (len(p_values) - rank):
            break
        fallen[index] = True
    return fallen


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
    among = [comparison for comparison in comparisons if {comparison.one, comparison.other} <= set(best)]
    first = f"{best[0]} is ahead"
    if len(best) > 1:
        widest = max(among, key=lambda comparison: comparison.reach)
        within = f"{widest.reach:.{widest.digits}f} {widest.unit}"
        first = f"{', '.join(best)} are not told apart (differences from {within} on would be seen)"
    return f"{first}; better than {', '.join(behind)}" if behind else f"{first}; nobody is told apart from all of them"
