"""What losses do with their settings and with wrong input, and the table that describes them."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raydaa import Objective, PairLogps, loss
from raydaa.algorithms.catalog import describe, table
from raydaa.algorithms.logprobs import log1mexp
from raydaa.algorithms.losses import METHODS
from raydaa.algorithms.objective import preference_loss

# One pair in float64: sums in nats over 7 and 5 tokens, and the reference's.
W, L, LEN_W, LEN_L, REF_W, REF_L = -6.3, -7.9, 7, 5, -6.9, -7.1
BETA = 0.7


R_W, R_L = W - REF_W, L - REF_L
A_W = W / LEN_W


def pair(chosen: float = W, rejected: float = L, dtype: torch.dtype = torch.float64) -> PairLogps:
    numbers = (chosen, rejected, LEN_W, LEN_L, REF_W, REF_L)
    return PairLogps(*(torch.tensor([float(number)], dtype=dtype) for number in numbers))


def test_log1mexp_near_both_ends() -> None:
    a = torch.tensor([-1e-6, -0.5, -math.log(2), -5.0, -60.0], dtype=torch.float64, requires_grad=True)
    values = log1mexp(a)
    exact = [math.log(-math.expm1(v)) for v in a.tolist()]
    assert values.tolist() == pytest.approx(exact, rel=1e-12, abs=1e-15)
    values.sum().backward()
    assert a.grad is not None
    assert torch.isfinite(a.grad).all()


def test_length_normalization_replaces_every_ratio() -> None:
    output = loss("ipo", beta=BETA, length_normalized=True)(pair())
    assert output.loss.item() == pytest.approx((R_W / LEN_W - R_L / LEN_L - 1 / (2 * BETA)) ** 2, rel=1e-12)
    output = loss("kto", beta=BETA, length_normalized=True)(replace(pair(), kl=torch.tensor(0.0)))
    assert output.chosen_reward.item() == pytest.approx(BETA * R_W / LEN_W, rel=1e-12)
    output = loss("slic_hf", alpha=0.2, delta=9.0, length_normalized=True)(pair())
    assert output.loss.item() == pytest.approx(9 - A_W + L / LEN_L - 0.2 * A_W, rel=1e-12)


def test_one_stage_objective_adds_the_sft_term() -> None:
    method = loss("asft", beta=1.0)
    output = Objective(method, sft_weight=1.0, align_weight=0.2)(pair())
    assert output.loss.item() == pytest.approx(-A_W + 0.2 * method(pair()).loss.item(), rel=1e-12)


def test_the_preference_loss_is_one_yardstick() -> None:
    """−log σ(2 (r̄_w − r̄_l)) by hand; ln 2 at the start; and being wrong by much costs more than being right gains."""
    assert preference_loss(pair()).item() == pytest.approx(
        math.log1p(math.exp(-2 * (R_W / LEN_W - R_L / LEN_L))), abs=1e-12
    )
    assert preference_loss(pair(REF_W, REF_L)).item() == pytest.approx(math.log(2), abs=1e-12)
    calm, wild = (
        sum(preference_loss(pair(REF_W + size * sign, REF_L)).item() for sign in (1, 1, 1, -1)) for size in (1.0, 30.0)
    )
    assert calm < 4 * math.log(2) < wild


def test_half_precision_is_widened() -> None:
    assert loss("dpo", beta=0.1)(pair(dtype=torch.bfloat16)).loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: loss("dop", beta=1.0), "'dop' is not a method; choose from apo_zero, asft"),
        (lambda: loss("dpo"), "dpo needs beta"),
        (lambda: loss("dpo", beta=0.0), "beta: 0.0 is not above 0"),
        (lambda: loss("dpo", beta=float("nan")), "beta: nan is not a finite number"),
        (lambda: loss("dpo", beta=1.0, gamma=1.0), "'gamma' is not a parameter of dpo"),
        (lambda: loss("dpo", beta=1.0)(PairLogps(*[torch.ones(2)] * 4)), "needs reference_chosen"),
        (lambda: PairLogps(torch.ones(2), torch.ones(3), torch.ones(2), torch.ones(2)), r"shape \(3,\)"),
        (lambda: PairLogps(torch.ones(1), torch.ones(1), torch.zeros(1), torch.ones(1)), "length 0"),
        (lambda: Objective(loss("dpo", beta=1.0), sft_weight=-1.0), "sft_weight: -1.0"),
        (lambda: loss("orpo", beta=1.0, length_normalized=False), "length_normalized: False has no odds"),
        (lambda: loss("asft", beta=1.0, length_normalized=False), "length_normalized: False has no odds"),
        (lambda: loss("slic_hf", beta=1.0), "'beta' is not a parameter of slic_hf"),
        (lambda: loss("slic_hf", delta=-1.0), "delta: -1.0 is below 0"),
        (lambda: loss("kto", beta=1.0)(pair()), "needs kl"),
        (lambda: replace(pair(), kl=torch.zeros(2)), r"kl has shape \(2,\)"),
        (lambda: loss("dpo", beta="0.1"), "beta: '0.1' is not a finite number"),
    ],
)
def test_wrong_use_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_kl_carries_no_gradient() -> None:
    kl = torch.tensor(2.0, requires_grad=True)
    logps = replace(pair(), kl=kl)
    assert logps.batch_kl.item() == 2.0
    assert not logps.batch_kl.requires_grad


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_is_described(name: str) -> None:
    row = describe(METHODS[name])
    assert "arXiv" in row.source
    assert all(symbol not in row.formula for symbol in "|\n")
    assert row.ranking in ("pairwise", "pointwise")


def test_the_readme_shows_the_table() -> None:
    readme = Path(__file__).parents[2] / "README.md"
    assert table() in readme.read_text(encoding="utf-8")
