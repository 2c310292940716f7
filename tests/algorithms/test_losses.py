"""The losses against a derivation in plain Python, and the laws that hold at particular points."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raydaa import Objective, PairLogps, loss
from raydaa.algorithms.logprobs import log1mexp
from raydaa.algorithms.losses import METHODS

# One pair in float64: sums in nats over 7 and 5 tokens, and the reference's.
W, L, LEN_W, LEN_L, REF_W, REF_L = -6.3, -7.9, 7, 5, -6.9, -7.1
BETA = 0.7


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def odds(a: float) -> float:
    return a - math.log(1 - math.exp(a))


R_W, R_L = W - REF_W, L - REF_L
A_W, A_L = W / LEN_W, L / LEN_L
O_W, O_L = odds(A_W), odds(A_L)

EXPECTED: dict[str, tuple[float, float, float]] = {
    "dpo": (-math.log(sigmoid(BETA * (R_W - R_L))), BETA * R_W, BETA * R_L),
    "ipo": ((R_W - R_L - 1 / (2 * BETA)) ** 2, BETA * R_W, BETA * R_L),
    "simpo": (-math.log(sigmoid(BETA * (A_W - A_L) - 0.5 * BETA)), BETA * A_W, BETA * A_L),
    "orpo": (-math.log(sigmoid(BETA * (O_W - O_L))), BETA * O_W, BETA * O_L),
    "nca": (
        -math.log(sigmoid(BETA * R_W)) - 0.5 * math.log(sigmoid(-BETA * R_W)) - 0.5 * math.log(sigmoid(-BETA * R_L)),
        BETA * R_W,
        BETA * R_L,
    ),
    "cal_dpo": (
        -math.log(sigmoid(R_W - R_L)) + (R_W - 1 / (2 * BETA)) ** 2 + (R_L + 1 / (2 * BETA)) ** 2,
        BETA * R_W,
        BETA * R_L,
    ),
    "apo_zero": (-sigmoid(BETA * R_W) + sigmoid(BETA * R_L), BETA * R_W, BETA * R_L),
    "asft": (-math.log(sigmoid(BETA * O_W)) - math.log(sigmoid(-BETA * O_L)), BETA * O_W, BETA * O_L),
}


def pair(chosen: float = W, rejected: float = L, dtype: torch.dtype = torch.float64) -> PairLogps:
    numbers = (chosen, rejected, LEN_W, LEN_L, REF_W, REF_L)
    return PairLogps(*(torch.tensor([float(number)], dtype=dtype) for number in numbers))


def test_every_method_is_derived_here() -> None:
    assert set(EXPECTED) == set(METHODS)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_value_and_rewards(name: str) -> None:
    output = loss(name, beta=BETA)(pair())
    got = (output.loss.item(), output.chosen_reward.item(), output.rejected_reward.item())
    assert got == pytest.approx(EXPECTED[name], rel=1e-12)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_gradient_is_the_values_slope(name: str) -> None:
    chosen, rejected = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (W, L))
    rest = [torch.tensor([float(v)], dtype=torch.float64) for v in (LEN_W, LEN_L, REF_W, REF_L)]
    loss(name, beta=BETA)(PairLogps(chosen, rejected, *rest)).loss.sum().backward()
    h = 1e-6

    def value(w: float, lo: float) -> float:
        return loss(name, beta=BETA)(pair(w, lo)).loss.item()

    slopes = ((value(W + h, L) - value(W - h, L)) / (2 * h), (value(W, L + h) - value(W, L - h)) / (2 * h))
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert (chosen.grad.item(), rejected.grad.item()) == pytest.approx(slopes, rel=1e-6, abs=1e-9)


AT_REFERENCE: dict[str, Callable[[float], float]] = {
    "dpo": lambda b: math.log(2),
    "nca": lambda b: 2 * math.log(2),
    "apo_zero": lambda b: 0.0,
    "ipo": lambda b: 1 / (4 * b * b),
    "cal_dpo": lambda b: math.log(2) + 1 / (2 * b * b),
}


@pytest.mark.parametrize("name", sorted(AT_REFERENCE))
@pytest.mark.parametrize("beta", [0.01, 0.3, 2.0])
def test_value_where_policy_is_reference(name: str, beta: float) -> None:
    logps = torch.tensor([-3.0, -40.0], dtype=torch.float64)
    lengths = torch.tensor([3, 20])
    output = loss(name, beta=beta)(PairLogps(logps, logps - 1, lengths, lengths, logps, logps - 1))
    assert output.loss.tolist() == pytest.approx([AT_REFERENCE[name](beta)] * 2, rel=1e-12)


@given(st.floats(-30, -1e-3), st.floats(-30, -1e-3))
def test_orpo_is_asft_plus_the_log_probability_of_a_disagreement(a_w: float, a_l: float) -> None:
    """Theorem 3.2 and corollary 3.3 at β = 1."""
    one = torch.ones(1)
    logps = PairLogps(torch.tensor([a_w], dtype=torch.float64), torch.tensor([a_l], dtype=torch.float64), one, one)
    orpo, asft = (loss(name, beta=1.0)(logps).loss.item() for name in ("orpo", "asft"))
    p_w, p_l = math.exp(a_w), math.exp(a_l)
    extra = math.log(p_w * (1 - p_l) + p_l * (1 - p_w))
    assert orpo == pytest.approx(asft + extra, abs=1e-5)
    assert orpo <= asft + 1e-9


@given(st.floats(-50, -1e-7), st.floats(-50, -1e-7), st.integers(1, 4096), st.integers(1, 4096))
def test_finite_in_float32(a_w: float, a_l: float, len_w: int, len_l: int) -> None:
    """Values and gradients stay finite over the range that real responses cover."""
    for name in METHODS:
        chosen = torch.tensor([a_w * len_w], requires_grad=True)
        rejected = torch.tensor([a_l * len_l], requires_grad=True)
        reference = (chosen.detach() + 1e4, rejected.detach() - 1e4)
        logps = PairLogps(chosen, rejected, torch.tensor([len_w]), torch.tensor([len_l]), *reference)
        output = loss(name, beta=0.1)(logps)
        output.loss.sum().backward()
        for value in (output.loss, chosen.grad, rejected.grad):
            assert value is not None
            assert torch.isfinite(value).all(), name


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
    with pytest.raises(ValueError, match=r"length_normalized.*is not a parameter of orpo"):
        loss("orpo", beta=1.0, length_normalized=False)


def test_one_stage_objective_adds_the_sft_term() -> None:
    method = loss("asft", beta=1.0)
    output = Objective(method, sft_weight=1.0, align_weight=0.2)(pair())
    assert output.loss.item() == pytest.approx(-A_W + 0.2 * method(pair()).loss.item(), rel=1e-12)


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
    ],
)
def test_wrong_use_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
