"""Log-probabilities of response pairs, and the two scores made from them that need care."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Above this average log-probability the odds would overflow; the clamp also makes their gradient 0 there.
MAX_AVERAGE_LOGP = -1e-6


@dataclass(frozen=True)
class PairLogps:
    """Log-probabilities of the two responses of each preference pair.

    All tensors have shape ``(pairs,)``. ``chosen`` and ``rejected`` are sums over response tokens
    of log π_θ(y_t | x, y_<t) in nats, end-of-sequence included; the lengths count the same tokens.
    The reference sums are constants of the data and are needed by losses with a ratio score only.
    ``kl`` is one number for the whole global batch, without gradient: the estimate of KL(π_θ ‖ π_ref) that a
    method with ``needs_kl`` compares against. Half precision is widened to float32; float64 stays as it is.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_length: Tensor
    rejected_length: Tensor
    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None
    kl: Tensor | None = None

    def __post_init__(self) -> None:
        dtype = torch.promote_types(self.chosen.dtype, torch.float32)
        for name, value in vars(self).items():
            if value is None or name == "kl":
                continue
            if value.shape != self.chosen.shape or value.dim() != 1:
                raise ValueError(f"{name} has shape {tuple(value.shape)}; every field needs shape (pairs,)")
            object.__setattr__(self, name, value.to(dtype))
        if bool((self.chosen_length < 1).any()) or bool((self.rejected_length < 1).any()):
            raise ValueError("a response of length 0 has no log-probability; lengths start at 1")
        if self.kl is not None:
            if self.kl.dim() != 0:
                raise ValueError(f"kl has shape {tuple(self.kl.shape)}; it is one number for the whole batch")
            object.__setattr__(self, "kl", self.kl.detach().to(dtype))

    @property
    def reference(self) -> tuple[Tensor, Tensor]:
        """Reference sums of chosen and rejected; ValueError where they are missing."""
        if self.reference_chosen is None or self.reference_rejected is None:
            raise ValueError("this loss needs reference_chosen and reference_rejected")
        return self.reference_chosen, self.reference_rejected

    @property
    def batch_kl(self) -> Tensor:
        """The global batch's KL estimate; ValueError where it is missing."""
        if self.kl is None:
            raise ValueError("this loss needs kl, the estimate over the global batch")
        return self.kl


def log1mexp(a: Tensor) -> Tensor:
    """log(1 − e^a) for a < 0 without cancellation (Mächler 2012)."""
    near_zero = a > -math.log(2.0)
    # Each branch sees only arguments it is finite for: torch.where lets NaN gradients of the other through.
    small = torch.where(near_zero, a, -1.0)
    large = torch.where(near_zero, -1.0, a)
    return torch.where(near_zero, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))


def log_odds(average_logp: Tensor) -> Tensor:
    """log(p / (1 − p)) of the length-normalised probability p = exp(average_logp)."""
    clamped = average_logp.clamp(max=MAX_AVERAGE_LOGP)
    return clamped - log1mexp(clamped)
