"""What it is worth that a setting was chosen for being the best: its value flatters it. numpy only.

The best of many noisy values is on average too high. By how much, the bootstrap says: the choice is repeated on prompts
drawn anew, and what the chosen one then loses against its own value is the optimism of choosing (Efron, JASA 2014). The
values that it starts from are noisy themselves, and so further apart than the truth: settings that are not clearly
behind the first are drawn together until they differ as much as noise leaves room for (Louis, JASA 1984), or the
optimism of a choice among equals would come out too small by a third.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from raydaa.evaluation.seeds import SeedSpread, count_seeds, mean_over_seeds
from raydaa.evaluation.win_rate import bootstrap_counts, drawn_means

DRAWS = 2000
BEHIND = 3.0  # standard errors of a difference by which a setting is clearly behind


@dataclass(frozen=True)
class Optimism:
    """By how much the best are too high on average for having been chosen, in the unit of the outcomes.

    ``groups`` has the best of each group's settings; ``best`` is that of all, chosen among the groups' bests by what
    those are without their own optimism.
    """

    groups: dict[str, float] = field(default_factory=dict)
    best: float = 0.0


def optimism_of_choice(
    outcomes: np.ndarray,
    groups: Mapping[str, Sequence[int]],
    spread: SeedSpread | None = None,
    among: Collection[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Optimism:
    """The optimism of a choice among settings that was made by their mean outcomes, the higher the better.

    ``outcomes`` (``(settings, seeds, prompts)``, NaN where one is not known) are all that the choice was made from;
    ``groups`` are the numbers of the settings among which each method's was chosen, and ``among`` the groups that the
    recommended one could be from (all). With ``spread`` other seeds are drawn as well.
    """
    means = mean_over_seeds(outcomes)
    own = np.nanmean(means, axis=1)
    counts = bootstrap_counts(means.shape[1], draws, seed)
    noise = drawn_means(means, counts) - own
    if spread is not None:
        by_seed = np.sqrt(spread.seed / np.maximum(1, count_seeds(outcomes)))
        noise = noise + by_seed * np.random.default_rng(seed + 1).standard_normal(noise.shape)
    noise -= noise.mean(axis=0)  # where there is no choice there is no optimism
    every = np.arange(draws)
    lost: dict[str, float] = {}
    could_be = [numbers for name, numbers in groups.items() if among is None or name in among]
    together = np.array(sorted({number for numbers in could_be for number in numbers}), int)
    centres = own.copy()
    centres[together] = _drawn_together(own[together], noise[:, together])
    corrected: list[np.ndarray] = []
    winners: list[np.ndarray] = []
    for name, numbers in groups.items():
        members = np.asarray(numbers)
        values = _drawn_together(own[members], noise[:, members]) + noise[:, members]
        chosen = members[values.argmax(axis=1)]
        lost[name] = float(noise[every, chosen].mean())
        if among is not None and name not in among:
            continue
        among_all = centres[members] + noise[:, members]
        chosen = members[among_all.argmax(axis=1)]
        corrected.append(among_all.max(axis=1) - lost[name])
        winners.append(chosen)
    best = np.stack(winners, axis=1)[every, np.stack(corrected, axis=1).argmax(axis=1)]
    return Optimism(lost, float(noise[every, best].mean()))


def _drawn_together(own: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Values ``(settings,)`` as far apart as their noise, ``(draws, settings)``, lets one believe; those clearly behind
    stay where they are."""
    first = int(own.argmax())
    errors = (noise - noise[:, first, None]).std(axis=0)
    near = own[first] - own <= BEHIND * errors
    if near.sum() < 2:
        return own
    centre = own[near].mean()
    observed = float(own[near].var(ddof=1))
    believed = max(0.0, observed - float(noise[:, near].var(axis=1, ddof=1).mean()))
    factor = (believed / observed) ** 0.5 if observed > 0 else 0.0
    return np.where(near, centre + factor * (own - centre), own)
