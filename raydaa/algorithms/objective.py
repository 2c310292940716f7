"""What a run minimises: an alignment loss, the SFT term, and their weights."""

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from raydaa.algorithms.logprobs import PairLogps
from raydaa.algorithms.method import LossOutput, Method


def sft_loss(logps: Tensor, lengths: Tensor) -> Tensor:
    """−average log-probability, per example: summed ``logps`` (nats) and token ``lengths``, ``(examples,)`` each."""
    return -logps / lengths


PREFERENCE_SCALE = 2.0  # of the log-ratio of a token


def preference_loss(logps: PairLogps) -> Tensor:
    """−log σ(2 · (r_w − r_l)) of each pair, ``(pairs,)``; r is a response's mean log-ratio per token to the start.

    One yardstick for all methods and β: it falls while a policy learns the preference, and rises again where it is
    wrong by much, as over-optimised policies are, most of whose pairs still stand in the right order. A loss at the
    trial's own β changes its unit with β, and accuracy sees nothing but the order.
    """
    reference_chosen, reference_rejected = logps.reference
    chosen = (logps.chosen - reference_chosen) / logps.chosen_length
    rejected = (logps.rejected - reference_rejected) / logps.rejected_length
    return -logsigmoid(PREFERENCE_SCALE * (chosen - rejected))


@dataclass(frozen=True)
class Objective:
    """sft_weight · L_sft(y_w) + align_weight · L_align. Called with `PairLogps` it gives a `LossOutput`.

    Two-stage training is ``Objective(method)``; one-stage ORPO and ASFT as published have sft_weight 1 and
    align_weight λ.
    """

    method: Method
    sft_weight: float = 0.0
    align_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("sft_weight", "align_weight"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise ValueError(f"{name}: {value!r} is not a finite number of at least 0")

    def __call__(self, logps: PairLogps) -> LossOutput:
        output = self.method(logps)
        sft = sft_loss(logps.chosen, logps.chosen_length)
        total = self.align_weight * output.loss + self.sft_weight * sft
        return LossOutput(total, output.chosen_reward, output.rejected_reward)
