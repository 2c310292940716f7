"""Checks for a loss of your own: the laws that every built-in one keeps."""

import math
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from raydaa.algorithms.catalog import loss, method_class
from raydaa.algorithms.logprobs import PairLogps
from raydaa.algorithms.method import LossOutput, Method, check_traits

BETAS = (0.01, 0.1, 1.0)


def check_loss(
    method: str | type[Method],
    directed: Callable[[Method, PairLogps], Tensor] | None = None,
    **hyper_parameters: Any,
) -> None:
    """Whether a loss keeps the laws that every built-in one keeps.

    Values and gradients must be finite in float32 for any response a model can give (average log-probability from
    −50 to −1e-7, up to 4,096 tokens, ratios up to 1e4) and near those in float64; gradients must be the slopes of
    the values, push chosen up and rejected down or be 0; a pair's loss must not depend on the pairs beside it, nor
    on anything that the traits do not name.

    Args:
        method: A name or a class, as for `raydaa.loss`.
        directed: ``directed(method, logps)`` says for which pairs, ``(pairs,)`` bool, the direction must hold where the
            formula itself has exceptions.
        **hyper_parameters: The method's own fields; without a ``beta`` the checks run at several.

    Raises:
        AssertionError: One line that names the law and a pair, where it is broken.
        ValueError: Where the class is no method, or hyper-parameters are missing.
    """
    cls = method_class(method) if isinstance(method, str) else method
    check_traits(cls)
    scaled = "beta" in {field.name for field in fields(cls)} and "beta" not in hyper_parameters
    for beta in BETAS if scaled else (None,):
        example = loss(cls, **hyper_parameters, **({} if beta is None else {"beta": beta}))
        _check_output(example)
        _check_independence(example)
        _check_extremes(example, directed)
        _check_slopes(example)


def draw_pairs(pairs: int, seed: int, dtype: torch.dtype = torch.float32, extreme: bool = False) -> PairLogps:
    """Log-probabilities as responses have them; with ``extreme`` over the whole range that laws cover."""
    generator = torch.Generator().manual_seed(seed)

    def log_uniform(low: float, high: float) -> Tensor:
        share = torch.rand(pairs, generator=generator, dtype=torch.float64)
        return torch.exp(math.log(low) + share * (math.log(high) - math.log(low)))

    least, most, longest, widest = (1e-7, 50.0, 4096.0, 1e4) if extreme else (1e-2, 5.0, 400.0, 30.0)
    columns: dict[str, Tensor] = {}
    for side in ("chosen", "rejected"):
        length = log_uniform(1.0, longest).round()
        # Rounded to float32 first, so that both precisions are given the same numbers.
        logp = (-log_uniform(least, most) * length).float()
        sign = torch.where(torch.rand(pairs, generator=generator) < 0.5, -1.0, 1.0)
        reference = (logp - sign * log_uniform(1e-3, widest)).float()
        columns |= {side: logp, f"{side}_length": length, f"reference_{side}": reference}
    columns["kl"] = 10 * torch.rand((), generator=generator)
    return PairLogps(**{name: column.to(dtype) for name, column in columns.items()})


def with_gradients(method: Method, logps: PairLogps) -> tuple[LossOutput, Tensor, Tensor]:
    """The output, and the gradient of each pair's loss with respect to its chosen and rejected logp."""
    chosen, rejected = (side.clone().requires_grad_() for side in (logps.chosen, logps.rejected))
    output = method(replace(logps, chosen=chosen, rejected=rejected))
    gradients = torch.autograd.grad(output.loss.sum(), (chosen, rejected), allow_unused=True)
    up, down = (torch.zeros_like(chosen) if g is None else g for g in gradients)
    return output, up, down


def _require(method: Method, law: str, holds: Tensor, logps: PairLogps) -> None:
    if bool(holds.all()):
        return
    worst = int((~holds).nonzero()[0, 0])
    values = {name: value[worst].item() for name, value in vars(logps).items() if value is not None and value.dim()}
    values |= {} if logps.kl is None else {"kl": logps.kl.item()}
    pair = ", ".join(f"{name} {value:.7g}" for name, value in values.items())
    raise AssertionError(f"{method}: {law}; not so for {pair}")


def _check_output(method: Method) -> None:
    logps = draw_pairs(8, seed=0)
    output = method(logps)
    for name, value in vars(output).items():
        if value.shape != logps.chosen.shape or value.dtype != torch.float32:
            raise AssertionError(f"{method}: {name} must be (pairs,) float32; it is {tuple(value.shape)} {value.dtype}")
    if output.chosen_reward.requires_grad or output.rejected_reward.requires_grad:
        raise AssertionError(f"{method}: rewards must carry no gradient")


def _extremes(method: Method) -> Iterator[PairLogps]:
    yield from (draw_pairs(512, seed, extreme=True) for seed in (1, 2))
    moderate = draw_pairs(512, seed=3)
    yield moderate
    if method.needs_reference:  # where training starts
        yield replace(moderate, reference_chosen=moderate.chosen, reference_rejected=moderate.rejected)


def _check_extremes(method: Method, directed: Callable[[Method, PairLogps], Tensor] | None) -> None:
    for logps in _extremes(method):
        output, up, down = with_gradients(method, logps)
        finite = output.loss.isfinite() & up.isfinite() & down.isfinite()
        _require(method, "loss and gradient are finite in float32", finite, logps)
        must = torch.ones_like(finite) if directed is None else directed(method, logps)
        _require(method, "the gradient pushes chosen up or is 0", (up <= 0) | ~must, logps)
        _require(method, "the gradient pushes rejected down or is 0", (down >= 0) | ~must, logps)
        columns: dict[str, Any] = {n: None if v is None else v.double() for n, v in vars(logps).items()}
        exact, exact_up, exact_down = with_gradients(method, PairLogps(**columns))
        steepest = torch.cat([exact_up.abs(), exact_down.abs()]).max()
        for got, right in ((up, exact_up), (down, exact_down)):
            near = (got.double() - right).abs() <= 1e-5 * steepest
            _require(method, "gradients in float32 are within 1e-5 of the steepest in float64", near, logps)
        inputs = logps.chosen.abs() + logps.rejected.abs()
        if method.needs_reference:
            inputs = inputs + logps.reference[0].abs() + logps.reference[1].abs()
        room = 1e-5 * (1 + exact.loss.abs() + steepest * inputs)
        near = (output.loss.double() - exact.loss).abs() <= room
        _require(method, "losses in float32 are near those in float64", near, logps)


def _check_slopes(method: Method) -> None:
    logps = draw_pairs(64, seed=4, dtype=torch.float64)
    _, *gradients = with_gradients(method, logps)
    for side, gradient in zip(("chosen", "rejected"), gradients, strict=True):
        step = 1e-6 * getattr(logps, side).abs().clamp(min=1.0)
        above = method(replace(logps, **{side: getattr(logps, side) + step})).loss
        below = method(replace(logps, **{side: getattr(logps, side) - step})).loss
        slope = (above - below) / (2 * step)
        near = (slope - gradient).abs() <= 1e-4 * gradient.abs().max() + 1e-7
        _require(method, f"the gradient of {side} is the slope of the loss", near, logps)


def _check_independence(method: Method) -> None:
    logps = draw_pairs(32, seed=5, dtype=torch.float64)
    whole = method(logps).loss

    def among(rows: Tensor) -> Tensor:
        columns = {n: v[rows] if v is not None and v.dim() else v for n, v in vars(logps).items()}
        return method(PairLogps(**columns)).loss

    alone = torch.cat([among(torch.tensor([row])) for row in range(32)])
    _require(method, "a pair's loss does not depend on the pairs beside it", (alone - whole).abs() <= 1e-12, logps)
    without = replace(logps, reference_chosen=None, reference_rejected=None)
    _check_trait(method, "needs_reference", without, whole)
    _check_trait(method, "needs_kl", replace(logps, kl=None), whole)


def _check_trait(method: Method, trait: str, without: PairLogps, whole: Tensor) -> None:
    """What a trait says is needed is asked for, and what it says is not needed changes nothing."""
    try:
        same = bool((method(without).loss == whole).all())
    except ValueError:
        same = False
    if same == getattr(method, trait):
        raise AssertionError(f"{method}: {trait} is {getattr(method, trait)}, but the loss says otherwise")
