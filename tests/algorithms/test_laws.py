"""The laws that losses keep, as properties; the survey's theorems with the conditions under which they hold."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from raydaa import Method, Objective, PairLogps, loss
from raydaa.algorithms.losses import METHODS
from raydaa.testing import check_loss, draw_pairs

betas = st.floats(1e-4, 5.0)
averages = st.floats(-50, -1e-7)


def one(a_w: float, a_l: float) -> PairLogps:
    """One pair of one-token responses in float64: its average log-probabilities are its sums."""
    chosen, rejected, length = (torch.tensor([v], dtype=torch.float64) for v in (a_w, a_l, 1.0))
    return PairLogps(chosen, rejected, length, length)


# Where the formula itself pushes the other way: beyond a target, or where NCA's chosen reward exceeds ln 2.
DIRECTED: dict[str, Callable[[Method, PairLogps], Tensor]] = {
    "ipo": lambda m, x: m.scores(x)[0] - m.scores(x)[1] < 0.5 / m.beta,
    "cal_dpo": lambda m, x: (m.scores(x)[0] < 0.5 / m.beta) & (m.scores(x)[1] > -0.5 / m.beta),
    "nca": lambda m, x: m.beta * m.scores(x)[0] < math.log(2),
}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_built_in_loss_keeps_the_laws(name: str) -> None:
    check_loss(name, DIRECTED.get(name))


@pytest.mark.parametrize("name", sorted(name for name, cls in METHODS.items() if cls.score != "odds"))
def test_the_other_normalisation_keeps_them_too(name: str) -> None:
    check_loss(name, DIRECTED.get(name), length_normalized=not METHODS[name].length_normalized)


AT_REFERENCE: dict[str, Callable[[float], float]] = {
    "dpo": lambda b: math.log(2),
    "nca": lambda b: 2 * math.log(2),
    "apo_zero": lambda b: 0.0,
    "ipo": lambda b: 1 / (4 * b * b),
    "cal_dpo": lambda b: math.log(2) + 1 / (2 * b * b),
    "rso": lambda b: 1.0,
    "kto": lambda b: 1.0,
}


@given(betas, st.floats(-1e4, -1e-3), st.floats(-1e4, -1e-3), st.sampled_from(sorted(AT_REFERENCE)))
def test_value_where_policy_is_reference(beta: float, chosen: float, rejected: float, name: str) -> None:
    """Law 1."""
    pair = one(chosen, rejected)
    pair = replace(pair, reference_chosen=pair.chosen, reference_rejected=pair.rejected, kl=torch.tensor(0.0))
    value = loss(name, beta=beta)(pair).loss.item()
    assert value == pytest.approx(AT_REFERENCE[name](beta), rel=1e-12, abs=1e-12)


@given(st.floats(0.1, 3), st.floats(0.1, 3))
def test_ktos_weights_are_those_of_its_sides(desirable: float, undesirable: float) -> None:
    pair = one(-2.0, -3.0)
    pair = replace(pair, reference_chosen=pair.chosen, reference_rejected=pair.rejected, kl=torch.tensor(0.0))
    method = loss("kto", beta=0.1, desirable_weight=desirable, undesirable_weight=undesirable)
    assert method(pair).loss.item() == pytest.approx((desirable + undesirable) / 2)


@given(averages, averages)
def test_asft_at_beta_1_is_a_log_likelihood(a_w: float, a_l: float) -> None:
    """Theorem 3.1: −log p_w − log(1 − p_l); up to the clamp at −1e-6."""
    value = loss("asft", beta=1.0)(one(a_w, a_l)).loss.item()
    exact = -a_w - math.log(-math.expm1(min(a_l, -1e-6)))
    assert value == pytest.approx(exact, abs=2e-6)


@given(averages, averages, st.floats(0.01, 2))
def test_one_stage_asft(a_w: float, a_l: float, weight: float) -> None:
    """−(1 + λ) log p_w − λ log(1 − p_l)."""
    value = Objective(loss("asft", beta=1.0), sft_weight=1.0, align_weight=weight)(one(a_w, a_l)).loss.item()
    exact = -(1 + weight) * a_w - weight * math.log(-math.expm1(min(a_l, -1e-6)))
    assert value == pytest.approx(exact, abs=2e-6 * (1 + weight))


@given(averages, averages)
def test_orpo_is_asft_plus_the_log_probability_of_one_right_one_wrong(a_w: float, a_l: float) -> None:
    """Theorem 3.2, and corollary 3.3 without any condition: that log-probability is never above 0."""
    orpo, asft = (loss(name, beta=1.0)(one(a_w, a_l)).loss.item() for name in ("orpo", "asft"))
    a_w, a_l = min(a_w, -1e-6), min(a_l, -1e-6)
    extra = math.log(math.exp(a_w) * -math.expm1(a_l) + math.exp(a_l) * -math.expm1(a_w))
    assert orpo == pytest.approx(asft + extra, abs=1e-9 * (1 + abs(extra)))
    assert orpo <= asft + 1e-12


# The theorems about gradients, for a real network: what is compared are gradients of all its weights.


@dataclass(frozen=True)
class World:
    """A small next-token network, another one as reference, and pairs of token sequences."""

    policy: nn.Module
    reference: nn.Module
    chosen: list[Tensor]
    rejected: list[Tensor]

    def gradient(self, method: Method, rows: list[int]) -> Tensor:
        def sums(network: nn.Module, side: list[Tensor]) -> Tensor:
            total = []
            for row in rows:
                logps = torch.log_softmax(network(side[row][:-1]), dim=-1)
                total.append(logps.gather(1, side[row][1:, None]).sum())
            return torch.stack(total)

        def lengths(side: list[Tensor]) -> Tensor:
            return torch.tensor([len(side[row]) - 1 for row in rows])

        with torch.no_grad():
            reference = sums(self.reference, self.chosen), sums(self.reference, self.rejected)
        policy = sums(self.policy, self.chosen), sums(self.policy, self.rejected)
        logps = PairLogps(*policy, lengths(self.chosen), lengths(self.rejected), *reference)
        gradients = torch.autograd.grad(method(logps).loss.mean(), list(self.policy.parameters()))
        return torch.cat([gradient.reshape(-1) for gradient in gradients])

    def cosine(self, one: Method, other: Method, rows: list[int]) -> float:
        pair = (self.gradient(method, rows) for method in (one, other))
        return torch.nn.functional.cosine_similarity(*pair, dim=0).item()


def make_world(seed: int) -> World:
    torch.manual_seed(seed)

    def network() -> nn.Module:
        return nn.Sequential(nn.Embedding(12, 8), nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 12)).double()

    def responses() -> list[Tensor]:
        return [torch.randint(0, 12, (int(torch.randint(3, 40, ())),)) for _ in range(6)]

    return World(network(), network(), responses(), responses())


BATCH = list(range(6))
SMALL = 1e-7
worlds = st.integers(0, 10_000).map(make_world)


@settings(max_examples=15, deadline=None)
@given(worlds, st.integers(0, 5))
def test_asft_and_orpo_point_the_same_way_as_beta_falls(world: World, row: int) -> None:
    """Theorem 3.4 at one β for both: per pair and for a batch; against orpo at β = 1 per pair."""
    asft, orpo = loss("asft", beta=SMALL), loss("orpo", beta=SMALL)
    assert world.cosine(asft, orpo, BATCH) > 1 - 1e-9
    assert world.cosine(asft, loss("orpo", beta=1.0), [row]) > 1 - 1e-9


@settings(max_examples=10, deadline=None)
@given(
    worlds, st.sampled_from([("asft", "orpo"), ("ipo", "dpo"), ("nca", "dpo"), ("cal_dpo", "dpo"), ("apo_zero", "dpo")])
)
def test_directions_draw_together_as_beta_falls(world: World, names: tuple[str, str]) -> None:
    """The theorems' limits, for a batch: what is left of the angle falls at least as fast as β."""
    angles = []
    for beta in (1e-1, 1e-3, 1e-5):
        one, other = (loss(name, beta=beta) for name in names)
        angles.append(1 - world.cosine(one, other, BATCH))
    assert angles[1] <= 0.1 * angles[0] + 1e-12
    assert angles[2] <= 0.1 * angles[1] + 1e-12


@settings(max_examples=15, deadline=None)
@given(worlds, st.integers(0, 5), st.floats(0.01, 3))
def test_orpos_direction_for_a_pair_does_not_depend_on_beta(world: World, row: int, beta: float) -> None:
    """Theorem 3.5."""
    assert world.cosine(loss("orpo", beta=beta), loss("orpo", beta=1.0), [row]) > 1 - 1e-9


@settings(max_examples=15, deadline=None)
@given(worlds, st.integers(0, 5), st.sampled_from(["ipo", "nca", "cal_dpo", "apo_zero"]))
def test_ratio_losses_point_as_dpo_does_as_beta_falls(world: World, row: int, name: str) -> None:
    """Theorem 3.6: per pair and for a batch."""
    for rows in ([row], BATCH):
        assert world.cosine(loss(name, beta=SMALL), loss("dpo", beta=SMALL), rows) > 1 - 1e-9


@settings(max_examples=15, deadline=None)
@given(worlds, st.integers(0, 5), st.floats(0.01, 5))
def test_simpo_points_as_dpo_does_where_both_are_normalised_alike(world: World, row: int, beta: float) -> None:
    """Theorem 3.6 for SimPO: per pair at any β, for a batch as β falls."""
    per_token = loss("dpo", beta=beta, length_normalized=True)
    assert world.cosine(loss("simpo", beta=beta), per_token, [row]) > 1 - 1e-9
    per_token = loss("dpo", beta=SMALL, length_normalized=True)
    assert world.cosine(loss("simpo", beta=SMALL), per_token, BATCH) > 1 - 1e-9


def lowest(cosine: Callable[[World], float]) -> float:
    return min(cosine(make_world(seed)) for seed in range(40))


def test_what_the_theorems_do_not_say() -> None:
    """In a batch β weighs the pairs, and SimPO's own normalisation is not DPO's: directions part."""
    orpo = loss("orpo", beta=1.0)
    # The network's odds are alike over pairs, so a large β is needed to weigh them apart.
    assert lowest(lambda world: world.cosine(loss("orpo", beta=5.0), orpo, BATCH)) < 0.95
    assert lowest(lambda world: world.cosine(loss("asft", beta=SMALL), orpo, BATCH)) < 0.999
    assert lowest(lambda w: w.cosine(loss("simpo", beta=SMALL), loss("dpo", beta=SMALL), BATCH)) < 0.7
    # At an ordinary β the ratio losses are different methods.
    assert lowest(lambda w: w.cosine(loss("nca", beta=0.5), loss("dpo", beta=0.5), BATCH)) < 0.95


@given(st.permutations(range(8)), st.sampled_from(sorted(METHODS)))
def test_the_order_of_pairs_does_not_matter(order: list[int], name: str) -> None:
    logps = draw_pairs(8, seed=7)
    method = loss(name, **({} if name == "slic_hf" else {"beta": 0.1}))
    columns = {n: v[order] if v is not None and v.dim() else v for n, v in vars(logps).items()}
    assert torch.equal(method(PairLogps(**columns)).loss, method(logps).loss[order])
