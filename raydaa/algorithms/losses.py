"""Direct alignment losses: a ranking of scores.

A method names its score (ratio to a reference, log-probability, or log odds), scores both responses
of a pair and ranks them: *pairwise* losses look at the difference of the two scores only, *pointwise*
losses pull each score towards its own side. Formulas follow "The Differences Between Direct Alignment
Algorithms are a Blur" (arXiv 2502.01237), Section 2; symbols: r = log π_θ − log π_ref (nats, summed over
response tokens), p = exp(average log-probability), o = log(p / (1 − p)), w chosen, l rejected.
"""

import math
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

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
    return softplus(rejected - chosen)


def pointwise_logistic(chosen: Tensor, rejected: Tensor) -> Tensor:
    """−log σ(s_w) − log σ(−s_l)."""
    return softplus(-chosen) + softplus(rejected)


@dataclass(frozen=True)
class Method:
    """What all losses share: β, the score, and the traits that settings, reports and tests read."""

    beta: float

    name: ClassVar[str]
    ranking: ClassVar[Ranking]
    score: ClassVar[Score]

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "length_normalized":
                if not isinstance(value, bool):
                    raise ValueError(f"length_normalized: {value!r} is not true or false")
            elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{field.name}: {value!r} is not a finite number")
        if self.beta <= 0:
            raise ValueError(f"beta: {self.beta!r} is not above 0; β scales the score and must be positive")

    @property
    def needs_reference(self) -> bool:
        """Whether the reference log-probabilities enter the loss."""
        return self.score == "ratio"

    def scores(self, logps: PairLogps) -> tuple[Tensor, Tensor]:
        """The scores of chosen and rejected, ``(pairs,)`` each, before β."""
        chosen, rejected = logps.chosen, logps.rejected
        if self.score == "ratio":
            reference_chosen, reference_rejected = logps.reference
            chosen, rejected = chosen - reference_chosen, rejected - reference_rejected
        if self.score == "odds" or getattr(self, "length_normalized", False):
            chosen, rejected = chosen / logps.chosen_length, rejected / logps.rejected_length
        if self.score == "odds":
            chosen, rejected = log_odds(chosen), log_odds(rejected)
        return chosen, rejected

    def per_pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """The formula: scores of shape ``(pairs,)`` in, loss of shape ``(pairs,)`` out."""
        raise NotImplementedError

    def __call__(self, logps: PairLogps) -> LossOutput:
        chosen, rejected = self.scores(logps)
        return LossOutput(
            self.per_pair(chosen, rejected), (self.beta * chosen).detach(), (self.beta * rejected).detach()
        )


@dataclass(frozen=True)
class DPO(Method):
    """−log σ(β r_w − β r_l). Rafailov et al. 2023, eq. 7."""

    length_normalized: bool = False
    name = "dpo"
    ranking = "pairwise"
    score = "ratio"

    def per_pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        return pairwise_logistic(self.beta * chosen, self.beta * rejected)


@dataclass(frozen=True)
class IPO(Method):
    """(r_w − r_l − 1/(2β))². Azar et al. 2023, eq. 17; TRL and others average r over tokens instead:
    ``length_normalized=True`` gives theirs."""

    length_normalized: bool = False
    name = "ipo"
    ranking = "pairwise"
    score = "ratio"

    def per_pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        return (chosen - rejected - 0.5 / self.beta).square()


@dataclass(frozen=True)
class SimPO(Method):
    """−log σ(β avg_w − β avg_l − γ), γ = ``gamma_beta_ratio``·β. Meng et al. 2024, eq. 6; TRL's
    ``simpo_gamma`` is γ itself."""

    gamma_beta_ratio: float = 0.5
    length_normalized: bool = True
    name = "simpo"
    ranking = "pairwise"
    score = "logp"

    def per_pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        return pairwise_logistic(self.beta * chosen, self.beta * (rejected + self.gamma_beta_ratio))


@dataclass(frozen=True)
class ORPO(Method):
    """−log σ(β o_w − β o_l). Hong et al. 2024, eq. 6, with β inside the sigmoid as in arXiv 2502.01237;
    the weight λ that other libraries call beta is the objective's ``align_weight``."""

    name = "orpo"
    ranking = "pairwise"
    score = "odds"

    def per_pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        return pairwise_logistic(self.beta * chosen, self.beta * rejected)


@dataclass(frozen=True)
class NCA(Method):
    """−log σ(β r_w) − ½ log σ(−β r_w) − ½ log σ(−β r_l). Chen et al. 2024, pairwise-data form."""

    length_normalized: bool = False
    name = "nca"
    ranking = "pointwise"
    score = "ratio"

    def per_pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        chosen, rejected = self.beta * chosen, self.beta * rejected
        return softplus(-chosen) + 0.5 * softplus(chosen) + 0.5 * softplus(rejected)


@dataclass(frozen=True)
class CalDPO(Method):
    """−log σ(r_w − r_l) + (r_w − 1/(2β))² + (r_l + 1/(2β))². Xiao et al. 2024."""

    length_normalized: bool = False
    name = "cal_dpo"
    ranking = "pointwise"
    score = "ratio"

    def per_pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        target = 0.5 / self.beta
        return pairwise_logistic(chosen, rejected) + (chosen - target).square() + (rejected + target).square()


@dataclass(frozen=True)
class APOZero(Method):
    """−σ(β r_w) + σ(β r_l). D'Oosterlinck et al. 2024; elsewhere with a constant +1, the same gradient."""

    length_normalized: bool = False
    name = "apo_zero"
    ranking = "pointwise"
    score = "ratio"

    def per_pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        return torch.sigmoid(self.beta * rejected) - torch.sigmoid(self.beta * chosen)


@dataclass(frozen=True)
class ASFT(Method):
    """−log σ(β o_w) − log σ(−β o_l). Wang et al. 2024; LLaMA-Factory's "ASFT" is another method."""

    name = "asft"
    ranking = "pointwise"
    score = "odds"

    def per_pair(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        return pointwise_logistic(self.beta * chosen, self.beta * rejected)


METHODS: dict[str, type[Method]] = {
    method.name: method for method in (DPO, IPO, SimPO, ORPO, NCA, CalDPO, APOZero, ASFT)
}


def method_class(name: str) -> type[Method]:
    """The loss called ``name``; ValueError with the choices where there is none."""
    if name not in METHODS:
        raise ValueError(f"{name!r} is not a method; choose from {', '.join(sorted(METHODS))}")
    return METHODS[name]


def titled(method: str, parameters: dict[str, Any]) -> str:
    """``ipo (per token)``: another normalisation than the method's own is another method with another β."""
    default = getattr(method_class(method), "length_normalized", None)
    normalized = parameters.get("length_normalized", default)
    if normalized == default:
        return method
    return f"{method} ({'per token' if normalized else 'summed'})"


def loss(name: str, **hyper_parameters: Any) -> Method:
    """A loss by name: ``loss("dpo", beta=0.1)(PairLogps(…))``. ValueError on unknown names or values."""
    cls = method_class(name)
    known = {field.name: field.default is MISSING for field in fields(cls)}
    for parameter in hyper_parameters:
        if parameter not in known:
            raise ValueError(f"{parameter!r} is not a parameter of {name}; choose from {', '.join(known)}")
    for parameter, required in known.items():
        if required and parameter not in hyper_parameters:
            raise ValueError(f"{name} needs {parameter}")
    return cls(**hyper_parameters)


def sft_loss(logps: Tensor, lengths: Tensor) -> Tensor:
    """−average log-probability, per example: summed ``logps`` (nats) and token ``lengths``, ``(examples,)`` each."""
    return -logps / lengths


@dataclass(frozen=True)
class Objective:
    """sft_weight · L_sft(y_w) + align_weight · L_align.

    Two-stage training is ``Objective(method)``; one-stage ORPO and ASFT as published have sft_weight 1 and
    align_weight λ.
    """

    method: Method
    sft_weight: float = 0.0
    align_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("sft_weight", "align_weight"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{name}: {value!r} is not a finite number of at least 0")

    def __call__(self, logps: PairLogps) -> LossOutput:
        output = self.method(logps)
        sft = sft_loss(logps.chosen, logps.chosen_length)
        total = self.align_weight * output.loss + self.sft_weight * sft
        return LossOutput(total, output.chosen_reward, output.rejected_reward)
