"""The twelve built-in methods.

Symbols: π_θ the policy, π_ref the reference, w the chosen and l the rejected response; logp = Σ log π_θ over a
response's tokens, end-of-sequence included, in nats; avg = logp / tokens; r = logp − log π_ref (summed alike);
p = exp(avg); o = log(p / (1 − p)); σ the logistic function. Every method maps `PairLogps`, tensors of shape
``(pairs,)``, to a loss and two rewards of shape ``(pairs,)``; the batch loss is the mean over pairs. "The survey"
is "The Differences Between Direct Alignment Algorithms are a Blur" (arXiv 2502.01237), whose Section 2 collects
these forms.

Scores are sums over tokens unless ``length_normalized`` is true: then every logp and r of the formula, its side
terms and the reward become means over tokens, which is another method with another β.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from raydaa.algorithms.logprobs import PairLogps
from raydaa.algorithms.method import Method, at_least, pairwise_logistic, pointwise_logistic


@dataclass(frozen=True, kw_only=True)
class DPO(Method):
    """−log σ(β r_w − β r_l)

    Source: Rafailov et al. 2023, arXiv 2305.18290, eq. 7
    Elsewhere: TRL ``loss_type="sigmoid"`` with the same β; per token it is TRL's ``sigmoid_norm``.
    """

    beta: float
    name = "dpo"
    ranking = "pairwise"
    score = "ratio"

    def per_pair(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        return pairwise_logistic(self.beta * chosen, self.beta * rejected)


@dataclass(frozen=True, kw_only=True)
class IPO(Method):
    """(r_w − r_l − 1/(2β))²

    Source: Azar et al. 2023, arXiv 2310.12036, eq. 17 (β is τ there)
    Elsewhere: TRL, LLaMA-Factory and HALOs average r over tokens; ``length_normalized=True`` with the same β is
    theirs. The reward is β r.
    """

    beta: float
    name = "ipo"
    ranking = "pairwise"
    score = "ratio"

    def per_pair(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        return (chosen - rejected - 0.5 / self.beta).square()


@dataclass(frozen=True, kw_only=True)
class SimPO(Method):
    """−log σ(β avg_w − β avg_l − γ), γ = gamma_beta_ratio·β

    Source: Meng et al. 2024, arXiv 2405.14734, eq. 6
    Elsewhere: the authors' code has the same ``gamma_beta_ratio``; TRL's ``simpo_gamma`` is γ itself, and its CPO
    trainer adds an SFT term unless ``cpo_alpha=0``.
    """

    beta: float
    gamma_beta_ratio: float = 0.5
    length_normalized: bool = True
    name = "simpo"
    ranking = "pairwise"
    score = "logp"

    def per_pair(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        return pairwise_logistic(self.beta * chosen, self.beta * (rejected + self.gamma_beta_ratio))


@dataclass(frozen=True, kw_only=True)
class ORPO(Method):
    """−log σ(β o_w − β o_l)

    Source: Hong et al. 2024, arXiv 2403.07691, eq. 7, with β inside the sigmoid as in the survey
    Elsewhere: what TRL and others call ``beta`` is the weight λ outside, `Objective`'s ``align_weight``; the method
    as published is one-stage: sft_weight 1, align_weight λ, β 1.
    """

    beta: float
    length_normalized: bool = True
    name = "orpo"
    ranking = "pairwise"
    score = "odds"

    def per_pair(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        return pairwise_logistic(self.beta * chosen, self.beta * rejected)


@dataclass(frozen=True, kw_only=True)
class NCA(Method):
    """−log σ(β r_w) − ½ log σ(−β r_w) − ½ log σ(−β r_l)

    Source: Chen et al. 2024, arXiv 2402.05369, the form for pairs
    Elsewhere: TRL ``loss_type="nca_pair"`` with the same β. Chosen is pushed down where β r_w > ln 2.
    """

    beta: float
    name = "nca"
    ranking = "pointwise"
    score = "ratio"

    def per_pair(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        chosen, rejected = self.beta * chosen, self.beta * rejected
        return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


@dataclass(frozen=True, kw_only=True)
class CalDPO(Method):
    """−log σ(r_w − r_l) + (r_w − 1/(2β))² + (r_l + 1/(2β))²

    Source: Xiao et al. 2024, arXiv 2412.14516, in the form of the survey
    Elsewhere: the two squares alone are TRL's ``sppo_hard`` with the same β. Beyond its targets ±1/(2β) a ratio is
    pulled back.
    """

    beta: float
    name = "cal_dpo"
    ranking = "pointwise"
    score = "ratio"

    def per_pair(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        target = 0.5 / self.beta
        return pairwise_logistic(chosen, rejected) + (chosen - target).square() + (rejected + target).square()


@dataclass(frozen=True, kw_only=True)
class APOZero(Method):
    """−σ(β r_w) + σ(β r_l)

    Source: D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 7
    Elsewhere: TRL ``loss_type="apo_zero"`` is this plus 1, the same β and gradient.
    """

    beta: float
    name = "apo_zero"
    ranking = "pointwise"
    score = "ratio"

    def per_pair(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        return torch.sigmoid(self.beta * rejected) - torch.sigmoid(self.beta * chosen)


@dataclass(frozen=True, kw_only=True)
class ASFT(Method):
    """−log σ(β o_w) − log σ(−β o_l)

    Source: Wang et al. 2024, arXiv 2409.10571, with β inside the sigmoids as in the survey
    Elsewhere: "ASFT" in LLaMA-Factory is another method. As published it is one-stage: sft_weight 1, align_weight λ,
    β 1; then it equals −(1+λ) log p_w − λ log(1 − p_l).
    """

    beta: float
    length_normalized: bool = True
    name = "asft"
    ranking = "pointwise"
    score = "odds"

    def per_pair(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        return pointwise_logistic(self.beta * chosen, self.beta * rejected)


@dataclass(frozen=True, kw_only=True)
class KTO(Method):
    """w_D·σ(β(z − r_w)) + w_U·σ(β(r_l − z)), z = max(0, batch mean of r on mismatched responses)

    Source: Ethayarajh et al. 2024, arXiv 2402.01306, eq. 7
    Elsewhere: both halves of a pair are summed here; TRL and HALOs average over responses, half the scale, and
    their z comes from one micro-batch. β, w_D (``desirable_weight``) and w_U (``undesirable_weight``) are the same.
    z is `PairLogps.kl`: one number for the whole global batch, from each prompt with the next pair's responses.
    """

    beta: float
    desirable_weight: float = at_least(0, default=1.0)
    undesirable_weight: float = at_least(0, default=1.0)
    name = "kto"
    ranking = "pointwise"
    score = "ratio"
    needs_kl = True

    def per_pair(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        z = logps.batch_kl
        desirable = self.desirable_weight * torch.sigmoid(self.beta * (z - chosen))
        return desirable + self.undesirable_weight * torch.sigmoid(self.beta * (rejected - z))


@dataclass(frozen=True, kw_only=True)
class CPO(Method):
    """−log σ(β logp_w − β logp_l) − α·avg_w

    Source: Xu et al. 2024, arXiv 2401.08417, eq. 3 and the likelihood term beside it
    Elsewhere: TRL's CPO trainer, ``loss_type="sigmoid"``, the same β; its ``cpo_alpha`` weighs a mean over the
    batch's tokens, α here each pair's own mean (whatever ``length_normalized`` says).
    """

    beta: float
    alpha: float = at_least(0, default=1.0)
    name = "cpo"
    ranking = "pairwise"
    score = "logp"

    def per_pair(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        likelihood = logps.chosen / logps.chosen_length
        return pairwise_logistic(self.beta * chosen, self.beta * rejected) - self.alpha * likelihood


@dataclass(frozen=True, kw_only=True)
class SLiCHF(Method):
    """max(0, δ − logp_w + logp_l) − α·logp_w

    Source: Zhao et al. 2023, arXiv 2305.10425, with the chosen response as the regularisation target
    Elsewhere: TRL's DPO trainer calls `RSO` ``hinge``; its CPO trainer's ``hinge`` at β, without its SFT term, is β
    times this at δ = 1/β, α = 0. There is no β here: the reward is logp.
    """

    delta: float = at_least(0, default=1.0)
    alpha: float = at_least(0, default=0.1)
    name = "slic_hf"
    ranking = "pairwise"
    score = "logp"

    def per_pair(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        return torch.relu(self.delta - chosen + rejected) - self.alpha * chosen


@dataclass(frozen=True, kw_only=True)
class RSO(Method):
    """max(0, 1 − β(r_w − r_l))

    Source: Liu et al. 2023, arXiv 2309.06657, the hinge loss alone (its rejection sampling is not part of this)
    Elsewhere: TRL ``loss_type="hinge"`` with the same β.
    """

    beta: float
    name = "rso"
    ranking = "pairwise"
    score = "ratio"

    def per_pair(self, chosen: Tensor, rejected: Tensor, logps: PairLogps) -> Tensor:
        return torch.relu(1 - self.beta * (chosen - rejected))


METHODS: dict[str, type[Method]] = {
    method.name: method for method in (DPO, IPO, SimPO, ORPO, NCA, CalDPO, APOZero, ASFT, KTO, CPO, SLiCHF, RSO)
}
