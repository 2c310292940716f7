"""Values and gradients of every loss, derived by hand in plain Python: ``python -m tests.golden.derive`` writes them.

Nothing of the package is used. Gradients are with respect to the two summed log-probabilities.
"""

import json
import math
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GOLDEN = Path(__file__).with_name("losses.json")
CLAMP = -1e-6


@dataclass(frozen=True)
class Pair:
    """One preference pair: sums in nats, token counts, the batch's KL."""

    w: float
    l: float  # noqa: E741
    len_w: int
    len_l: int
    ref_w: float
    ref_l: float
    kl: float


@dataclass(frozen=True)
class Answer:
    """Loss, its gradients, rewards, and law 9's scale of the loss's rounding error."""

    loss: float
    grad_w: float
    grad_l: float
    reward_w: float
    reward_l: float
    scale: float


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def minus_log_sigmoid(z: float) -> float:
    return math.log1p(math.exp(-z)) if z >= 0 else math.log1p(math.exp(z)) - z


def odds(average: float) -> tuple[float, float]:
    """Log odds of a per-token probability, and their slope; flat above the clamp."""
    a = min(average, CLAMP)
    rest = -math.expm1(a)  # 1 − p
    log_rest = math.log(rest) if a > -math.log(2) else math.log1p(-math.exp(a))
    return a - log_rest, 0.0 if average > CLAMP else 1 / rest


def dpo(x: Pair, beta: float, per_token: bool = False) -> Answer:
    n_w, n_l = (x.len_w, x.len_l) if per_token else (1, 1)
    r_w, r_l = (x.w - x.ref_w) / n_w, (x.l - x.ref_l) / n_l
    slope = -beta * sigmoid(-beta * (r_w - r_l))
    return Answer(
        minus_log_sigmoid(beta * (r_w - r_l)), slope / n_w, -slope / n_l, beta * r_w, beta * r_l, 1 + beta * inputs(x)
    )


def ipo(x: Pair, beta: float, per_token: bool = False) -> Answer:
    n_w, n_l = (x.len_w, x.len_l) if per_token else (1, 1)
    r_w, r_l = (x.w - x.ref_w) / n_w, (x.l - x.ref_l) / n_l
    miss = r_w - r_l - 1 / (2 * beta)
    scale = 1 + (inputs(x) + 1 / (2 * beta)) ** 2
    return Answer(miss**2, 2 * miss / n_w, -2 * miss / n_l, beta * r_w, beta * r_l, scale)


def simpo(x: Pair, beta: float, ratio: float = 0.5) -> Answer:
    a_w, a_l = x.w / x.len_w, x.l / x.len_l
    z = beta * (a_w - a_l) - ratio * beta
    slope = -beta * sigmoid(-z)
    scale = 1 + beta * (abs(a_w) + abs(a_l) + 1)
    return Answer(minus_log_sigmoid(z), slope / x.len_w, -slope / x.len_l, beta * a_w, beta * a_l, scale)


def orpo(x: Pair, beta: float) -> Answer:
    (o_w, d_w), (o_l, d_l) = odds(x.w / x.len_w), odds(x.l / x.len_l)
    slope = -beta * sigmoid(-beta * (o_w - o_l))
    scale = 1 + beta * (abs(o_w) + abs(o_l) + 1)
    return Answer(
        minus_log_sigmoid(beta * (o_w - o_l)),
        slope * d_w / x.len_w,
        -slope * d_l / x.len_l,
        beta * o_w,
        beta * o_l,
        scale,
    )


def asft(x: Pair, beta: float) -> Answer:
    (o_w, d_w), (o_l, d_l) = odds(x.w / x.len_w), odds(x.l / x.len_l)
    return Answer(
        minus_log_sigmoid(beta * o_w) + minus_log_sigmoid(-beta * o_l),
        -beta * sigmoid(-beta * o_w) * d_w / x.len_w,
        beta * sigmoid(beta * o_l) * d_l / x.len_l,
        beta * o_w,
        beta * o_l,
        1 + beta * (abs(o_w) + abs(o_l) + 1),
    )


def nca(x: Pair, beta: float) -> Answer:
    b_w, b_l = beta * (x.w - x.ref_w), beta * (x.l - x.ref_l)
    return Answer(
        minus_log_sigmoid(b_w) + 0.5 * minus_log_sigmoid(-b_w) + 0.5 * minus_log_sigmoid(-b_l),
        beta * (0.5 * sigmoid(b_w) - sigmoid(-b_w)),
        0.5 * beta * sigmoid(b_l),
        b_w,
        b_l,
        1 + beta * inputs(x),
    )


def cal_dpo(x: Pair, beta: float) -> Answer:
    r_w, r_l, target = x.w - x.ref_w, x.l - x.ref_l, 1 / (2 * beta)
    pull = sigmoid(r_l - r_w)
    return Answer(
        minus_log_sigmoid(r_w - r_l) + (r_w - target) ** 2 + (r_l + target) ** 2,
        -pull + 2 * (r_w - target),
        pull + 2 * (r_l + target),
        beta * r_w,
        beta * r_l,
        1 + (inputs(x) + 1 / beta) ** 2,
    )


def apo_zero(x: Pair, beta: float) -> Answer:
    b_w, b_l = beta * (x.w - x.ref_w), beta * (x.l - x.ref_l)
    return Answer(
        sigmoid(b_l) - sigmoid(b_w),
        -beta * sigmoid(b_w) * sigmoid(-b_w),
        beta * sigmoid(b_l) * sigmoid(-b_l),
        b_w,
        b_l,
        1 + beta * inputs(x),
    )


def kto(x: Pair, beta: float, desirable: float = 1.0, undesirable: float = 1.0) -> Answer:
    r_w, r_l = x.w - x.ref_w, x.l - x.ref_l
    s_w, s_l = sigmoid(beta * (x.kl - r_w)), sigmoid(beta * (r_l - x.kl))
    return Answer(
        desirable * s_w + undesirable * s_l,
        -desirable * beta * s_w * sigmoid(-beta * (x.kl - r_w)),
        undesirable * beta * s_l * sigmoid(-beta * (r_l - x.kl)),
        beta * r_w,
        beta * r_l,
        1 + beta * (inputs(x) + 2 * x.kl),
    )


def cpo(x: Pair, beta: float, alpha: float = 1.0) -> Answer:
    slope = -beta * sigmoid(-beta * (x.w - x.l))
    average = x.w / x.len_w
    scale = 1 + beta * inputs(x) + abs(average)
    loss = minus_log_sigmoid(beta * (x.w - x.l)) - alpha * average
    return Answer(loss, slope - alpha / x.len_w, -slope, beta * x.w, beta * x.l, scale)


def slic_hf(x: Pair, delta: float = 1.0, alpha: float = 0.1) -> Answer:
    hinge = delta - x.w + x.l
    on = 1.0 if hinge > 0 else 0.0
    return Answer(max(0.0, hinge) - alpha * x.w, -on - alpha, on, x.w, x.l, 1 + inputs(x))


def rso(x: Pair, beta: float) -> Answer:
    r_w, r_l = x.w - x.ref_w, x.l - x.ref_l
    hinge = 1 - beta * (r_w - r_l)
    on = beta if hinge > 0 else 0.0
    return Answer(max(0.0, hinge), -on, on, beta * r_w, beta * r_l, 1 + beta * inputs(x))


def inputs(x: Pair) -> float:
    return abs(x.w) + abs(x.ref_w) + abs(x.l) + abs(x.ref_l)


# (method, its hyper-parameters by our names, the derivation with the same ones)
CASES: list[tuple[str, dict[str, float | bool], Callable[[Pair], Answer]]] = [
    *[("dpo", {"beta": b}, lambda x, b=b: dpo(x, b)) for b in (0.001, 0.1, 1.0)],
    ("dpo", {"beta": 2.0, "length_normalized": True}, lambda x: dpo(x, 2.0, per_token=True)),
    *[("ipo", {"beta": b}, lambda x, b=b: ipo(x, b)) for b in (0.0007, 0.1)],
    ("ipo", {"beta": 0.5, "length_normalized": True}, lambda x: ipo(x, 0.5, per_token=True)),
    *[("simpo", {"beta": b}, lambda x, b=b: simpo(x, b)) for b in (0.05, 2.0)],
    ("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.8}, lambda x: simpo(x, 2.0, 0.8)),
    *[("orpo", {"beta": b}, lambda x, b=b: orpo(x, b)) for b in (0.1, 1.0)],
    *[("asft", {"beta": b}, lambda x, b=b: asft(x, b)) for b in (0.001, 1.0)],
    *[("nca", {"beta": b}, lambda x, b=b: nca(x, b)) for b in (0.0003, 0.05)],
    *[("cal_dpo", {"beta": b}, lambda x, b=b: cal_dpo(x, b)) for b in (0.0001, 0.003)],
    *[("apo_zero", {"beta": b}, lambda x, b=b: apo_zero(x, b)) for b in (0.001, 0.2)],
    ("kto", {"beta": 0.1}, lambda x: kto(x, 0.1)),
    ("kto", {"beta": 0.05, "desirable_weight": 1.3, "undesirable_weight": 0.7}, lambda x: kto(x, 0.05, 1.3, 0.7)),
    ("cpo", {"beta": 0.1}, lambda x: cpo(x, 0.1)),
    ("cpo", {"beta": 0.3, "alpha": 0.0}, lambda x: cpo(x, 0.3, 0.0)),
    ("slic_hf", {}, slic_hf),
    ("slic_hf", {"delta": 10.0, "alpha": 0.5}, lambda x: slic_hf(x, 10.0, 0.5)),
    *[("rso", {"beta": b}, lambda x, b=b: rso(x, b)) for b in (0.05, 0.5)],
]


def float32(value: float) -> float:
    """The nearest number that float32 can hold: inputs must be the same in both precisions."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def draw(seed: int, count: int, most: float, longest: int, widest: float) -> list[Pair]:
    """Pairs with average log-probabilities down to −``most`` and ratios up to ``widest``."""
    source = random.Random(seed)
    kl = float32(source.uniform(0, 10))
    pairs = []
    for _ in range(count):
        sides = []
        for _ in range(2):
            length = round(math.exp(source.uniform(0, math.log(longest))))
            logp = float32(-math.exp(source.uniform(math.log(1e-7), math.log(most))) * length)
            ratio = source.choice((-1, 1)) * math.exp(source.uniform(math.log(1e-3), math.log(widest)))
            sides.append((logp, length, float32(logp - ratio)))
        (w, len_w, ref_w), (lo, len_l, ref_l) = sides
        pairs.append(Pair(w, lo, len_w, len_l, ref_w, ref_l, kl))
    return pairs


def derive() -> list[dict[str, object]]:
    """All cases: ordinary pairs, and pairs from the whole range that the laws cover."""
    batches = [draw(1, 8, 5.0, 400, 30.0), draw(2, 8, 50.0, 4096, 1e4)]
    return [
        {
            "method": method,
            "parameters": parameters,
            "pairs": [vars(pair) for pair in pairs],
            "answers": [vars(derivation(pair)) for pair in pairs],
        }
        for method, parameters, derivation in CASES
        for pairs in batches
    ]


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(case) for case in derive())
    GOLDEN.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
