"""What a direct alignment loss is: a ranking of scores.

A method names its score (ratio to a reference, log-probability, or log odds), scores both responses of a pair
and ranks them: *pairwise* losses look at the difference of the two scores, *pointwise* losses pull each score
towards its own side.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor
from torch.nn.functional import logsigmoid

from raydaa.algorithms.logprobs import PairLogps, log_odds

Ranking = Literal["pairwise", "pointwise"]
Score = Literal["ratio", "logp", "odds"]


@dataclass(frozen=True)
class LossOutput:
    """Loss and implicit rewards of each pair, all of shape ``(pairs,)``; the batch loss is the mean of ``loss``."""

    loss: Tensor
    chosen_reward: Tensor
    rejected_reward: Tensor


def pairwise_logistic(chosen: Tensor, rejected: Tensor) -> Tensor:
    """−log σ(s_w − s_l)."""
    return -logsigmoid(chosen - rejected)


def pointwise_logistic(chosen: Tensor, rejected: Tensor) -> Tensor:
    """−log σ(s_w) − log σ(−s_l)."""
    return -logsigmoid(chosen) - logsigmoid(-rejected)


@dataclass(frozen=True, kw_only=True)
class Method:
    """The ground of every loss. A method of your own is a frozen dataclass over this one:

        @dataclass(frozen=True, kw_only=True)
        class Exponential(Method):
            beta: float
            ranking, score = "pairwise", "ratio"

            def per_pair(self, chosen, rejected, logps):
                return torch.exp(self.beta * (rejected - chosen))

    ``ranking`` and ``score`` are traits that settings, reports and tests read; numeric fields are hyper-parameters
    that a study can search; ``name`` is what tables call it (the class's name by default). A method that sets
    ``needs_kl`` gets `PairLogps.kl`. `raydaa.testing.check_loss` tells whether it keeps the laws.
    """

    length_normalized: bool = False

    name: ClassVar[str]
    ranking: ClassVar[Ranking]
    score: ClassVar[Score]
    needs_reference: ClassVar[bool]  # whether reference log-probabilities enter the loss; follows from the score
    needs_kl: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in cls.__dict__:
            cls.name = cls.__name__
        if "needs_reference" not in cls.__dict__:
            cls.needs_reference = getattr(cls, "score", None) == "ratio"

    def __post_init__(self) -> None:
        for one in fields(self):
            value: Any = getattr(self, one.name)
            if one.name == "length_normalized":
                if not isinstance(value, bool):
                    raise ValueError(f"length_normalized: {value!r} is not true or false")
            elif one.type in (float, "float"):
                _check_number(one.name, value, one.metadata.get("least"))
        if self.score == "odds" and not self.length_normalized:
            raise ValueError("length_normalized: False has no odds; they are those of the per-token probability")

    def scores(self, logps: PairLogps) -> tuple[Tensor, Tensor]:
        """What is ranked, before β: r, logp or o, per token where asked.

        Args:
            logps: Of a batch of pairs.

        Returns:
            The scores of chosen and rejected, ``(pairs,)`` each.

        Raises:
            ValueError: Where the score wants reference log-probabilities that are missing.
        """
        chosen, rejected = logps.chosen, logps.rejected
        if self.score == "ratio":
            reference_chosen, reference_rejected = logps.reference
            chosen, rejected = chosen - reference_chosen, rejected - reference_rejected
        if self.length_normalized:
            chosen, rejected = chosen / logps.chosen_length, rejected / logps.rejected_length
        if self.score == "odds":
            chosen, rejected = log_odds(chosen), log_odds(rejected)
        return chosen, rejected

    def per_pair(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        """The formula.

        Args:
            chosen: Scores of the preferred responses, ``(pairs,)``.
            rejected: Of the others.
            logps: What the scores were made from, for terms beside them.

        Returns:
            The loss of each pair, ``(pairs,)``.
        """
        raise NotImplementedError

    def __call__(self, logps: PairLogps) -> LossOutput:
        """Loss and rewards of each pair.

        Args:
            logps: Of a batch of pairs.

        Returns:
            All of shape ``(pairs,)``; a reward is β times the score, without gradient.

        Raises:
            ValueError: Where reference log-probabilities or the batch's KL are wanted and missing.
        """
        chosen, rejected = self.scores(logps)
        scale = getattr(self, "beta", 1.0)
        per_pair = self.per_pair(chosen, rejected, logps)
        return LossOutput(per_pair, (scale * chosen).detach(), (scale * rejected).detach())


def at_least(least: float, default: float) -> Any:
    """A hyper-parameter with a default that must not fall below ``least``."""
    return field(default=default, metadata={"least": least})


def _check_number(name: str, value: Any, least: float | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}: {value!r} is not a finite number")
    if name == "beta" and value <= 0:
        raise ValueError(f"beta: {value!r} is not above 0; β scales the score and must be positive")
    if least is not None and value < least:
        raise ValueError(f"{name}: {value!r} is below {least:g}")


def check_traits(cls: type[Method]) -> None:
    """ValueError where a class does not say what kind of method it is."""
    for trait, choices in (("ranking", get_args(Ranking)), ("score", get_args(Score))):
        if getattr(cls, trait, None) not in choices:
            raise ValueError(f"{cls.__name__}.{trait}: is not set; choose from {', '.join(choices)}")
    if cls.needs_kl and cls.score != "ratio":
        raise ValueError(f"{cls.__name__}.needs_kl: KL is a mean of ratios; it goes with score ratio")
