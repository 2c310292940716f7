"""What a model has to keep to be recommended, and whether it probably does. numpy only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist

from raydaa.evaluation.kl import Divergence

PROBABLY = 0.8  # chance that a limit is kept, for all that was measured
WITHIN = NormalDist().inv_cdf(0.975)  # standard errors of a 95 % interval
SURE = NormalDist().inv_cdf(PROBABLY)


@dataclass(frozen=True)
class Limits:
    """The most KL from its start (nats per response), the most tokens a response as a multiple of its start's, and the
    least score of each task."""

    max_kl: float | None = None
    max_length_ratio: float | None = None
    min_tasks: dict[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.min_tasks) or self.max_kl is not None or self.max_length_ratio is not None

    def __str__(self) -> str:
        parts: list[str] = []
        if self.max_kl is not None:
            parts.append(f"KL of at most {self.max_kl:g} nats")
        if self.max_length_ratio is not None:
            parts.append(f"responses at most {self.max_length_ratio:g} times as long as its start's")
        parts += [f"{task} of at least {least:g}" for task, least in self.min_tasks.items()]
        return ", ".join(parts)

    def keep_distance(self, divergence: Divergence | None, length_ratio: float | None) -> bool:
        """Whether the limits of KL and length are probably kept; not where they were not measured."""
        if self.max_kl is not None:
            if divergence is None:
                return False
            error = (divergence.high - divergence.low) / 2 / WITHIN
            if divergence.per_response + SURE * error > self.max_kl:
                return False
        if self.max_length_ratio is not None:
            return length_ratio is not None and length_ratio <= self.max_length_ratio
        return True

    def keep_tasks(self, scores: Mapping[str, tuple[float, float | None]]) -> bool:
        """Whether the tasks' limits are probably kept; ``scores`` are values with standard errors, and one that is not
        there is no reason to doubt."""
        for task, least in self.min_tasks.items():
            if task in scores:
                value, error = scores[task]
                if value - SURE * (error or 0.0) < least:
                    return False
        return True
