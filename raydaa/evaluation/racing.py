"""Which models are judged on which prompts: verdicts cost money, and most go to models that are behind. numpy only.

Prompts are judged block by block, in their order; after each block what is clearly behind the first is judged no
further (a race as Maron and Moore 1994 have it, with the paired standard error). Nothing is drawn: the same verdicts
give the same race, whenever it is run.
"""

from collections.abc import Mapping, Sequence

import numpy as np

BEHIND = 2.0  # standard errors of a difference by which a setting is clearly behind
BLOCK = 25  # prompts
FIRST = 16  # the first block is a share of 1/16 of them, or BLOCK where that is less
ADDED = (1.0, -1.0)  # differences that the standard error adds: a few equal ones would make it 0


class Race:
    """A race of settings, each with a model for every seed; ``always`` are judged on everything."""

    def __init__(
        self,
        prompts: int,
        settings: Mapping[str, Sequence[str]],
        always: Sequence[str] = (),
        block: int = BLOCK,
    ) -> None:
        self.prompts = prompts
        self.size = block
        self.always = list(always)
        self.settings = {name: list(models) for name, models in settings.items()}
        self.outcomes = {name: np.full(prompts, np.nan) for name in settings}  # means over seeds
        self.alive = list(settings)
        self.judged = 0

    @property
    def block(self) -> range:
        """The prompts that come next; none when all were judged."""
        size = self.size
        if self.judged == 0 and self.settings:
            size = min(size, max(1, self.prompts // FIRST))
        return range(self.judged, min(self.prompts, self.judged + size))

    @property
    def models(self) -> list[str]:
        """Who is judged on the next block."""
        return [*(model for name in self.alive for model in self.settings[name]), *self.always]

    def tell(self, outcomes: Mapping[str, Sequence[float]]) -> None:
        """What was said of `models` on the block, NaN where that can't be read."""
        block = self.block
        for name in self.alive:
            seeds = np.array([outcomes[model] for model in self.settings[name]], float)
            known = ~np.isnan(seeds)
            sums = np.where(known, seeds, 0.0).sum(axis=0)
            mean = np.divide(sums, known.sum(axis=0), out=np.full(len(block), np.nan), where=known.any(axis=0))
            self.outcomes[name][block.start : block.stop] = mean
        self.judged = block.stop
        self._drop()

    def _drop(self) -> None:
        values = {name: self.outcomes[name][: self.judged] for name in self.alive}
        known = {name: mean[~np.isnan(mean)] for name, mean in values.items()}
        means = {name: float(mean.mean()) if mean.size else 0.0 for name, mean in known.items()}
        if not means:
            return
        first = max(means, key=lambda name: means[name])
        self.alive = [name for name in self.alive if not _behind(values[first] - values[name])]


def _behind(ahead: np.ndarray) -> bool:
    """Whether the mean of differences is clearly above nothing."""
    ahead = ahead[~np.isnan(ahead)]
    if not ahead.size or not ahead.any():
        return False
    more = np.concatenate([ahead, ADDED])
    return float(ahead.mean()) > BEHIND * float(more.std(ddof=1)) / float(np.sqrt(ahead.size))


def on_all_prompts(means: np.ndarray) -> np.ndarray:
    """Outcomes of settings, ``(settings, prompts)``, with those that a race left out, so that means can stand beside
    each other: what the first one has on these prompts, and by how much the setting is away from it on the others.

    A setting that fell out early was judged on the first prompts alone, which may have been easy ones.
    """
    counts = (~np.isnan(means)).sum(axis=1)
    if not len(means) or (counts == counts.max()).all():
        return means
    whole = np.flatnonzero(counts == counts.max())
    first = means[whole[int(np.nanmean(means[whole], axis=1).argmax())]]
    filled = means.copy()
    for number in np.flatnonzero(counts < counts.max()):
        away = means[number] - first
        missing = np.isnan(means[number])
        if not np.isnan(away).all():
            filled[number, missing] = first[missing] + np.nanmean(away)
    return filled
