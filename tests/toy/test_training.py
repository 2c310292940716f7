"""Thousands of networks at once are the networks that torch.nn would train one after another."""

import pytest
import torch
from torch import Tensor, nn

from raydaa.toy.settings import ToySettings
from raydaa.toy.training import (
    RANKINGS,
    Networks,
    all_runs,
    draw_networks,
    draw_triplets,
    make_grid,
    one_run,
    train,
)

SMALL = ToySettings(learning_rates=(0.1, 0.01), betas=(2.0, 0.5), triplets=200, steps=25, runs=4, prompt_bias=(2.0,))


def as_torch_nn(networks: Networks, place: int) -> nn.Sequential:
    """Network ``place`` as ordinary layers."""
    size = networks.output.shape[1]
    model = nn.Sequential(nn.Linear(2, size), nn.ReLU(), nn.Linear(size, 1))
    with torch.no_grad():
        model[0].weight.copy_(networks.hidden[place, :, :2])
        model[0].bias.copy_(networks.hidden[place, :, 2])
        model[2].weight.copy_(networks.output[place][None])
        model[2].bias.copy_(networks.bias[place])
    return model


def trained_alone(model: nn.Sequential, sides: tuple[Tensor, Tensor], ranking: str, rate: float, beta: float) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=SMALL.adam_betas)
    for _ in range(SMALL.steps):
        better, worse = (beta * model(side[:2].T)[:, 0] for side in sides)
        optimizer.zero_grad()
        RANKINGS[ranking](better, worse).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("ranking", ["pairwise", "pointwise"])
@pytest.mark.parametrize("size", [1, 3])
def test_each_network_equals_torch_nn_with_its_adam(ranking: str, size: int) -> None:
    sides, grid = draw_triplets(SMALL, 2.0, 1), make_grid(SMALL)
    networks = draw_networks(size, len(grid), 1)
    models = [as_torch_nn(networks, place) for place in range(len(grid))]
    train(networks, *sides, RANKINGS[ranking], grid, SMALL)
    for place, (rate, beta) in enumerate(grid.tolist()):
        trained_alone(models[place], sides, ranking, rate, beta)
        with torch.no_grad():
            better, worse = (models[place](side[:2].T)[:, 0] for side in sides)
        expected, found = better - worse, networks.rewards(sides[0])[place] - networks.rewards(sides[1])[place]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        if ranking == "pointwise":  # a pairwise ranking leaves the output's bias to rounding errors
            torch.testing.assert_close(networks.rewards(sides[0])[place], better, rtol=1e-3, atol=1e-3)


def test_initial_weights_are_torch_nns_default_in_distribution() -> None:
    networks = [draw_networks(3, 1, run) for run in range(2000)]
    torch.manual_seed(0)
    layers = [(nn.Linear(2, 3), nn.Linear(3, 1)) for _ in range(2000)]
    ours = torch.stack([network.hidden[0] for network in networks])
    theirs = torch.stack([torch.cat([one.weight, one.bias[:, None]], dim=1).detach() for one, _ in layers])
    assert ours.abs().max() == pytest.approx(theirs.abs().max().item(), rel=1e-2)
    assert ours.std() == pytest.approx(theirs.std().item(), rel=2e-2)
    ours, theirs = torch.stack([n.output[0] for n in networks]), torch.stack([two.weight[0] for _, two in layers])
    assert ours.std() == pytest.approx(theirs.std().item(), rel=2e-2)


def test_triplets() -> None:
    """Chosen is the larger; candidates lie around bias · sin 2x; runs differ, the same run does not."""
    settings = ToySettings(triplets=20_000)
    chosen, rejected = draw_triplets(settings, 2.0, 0)
    assert torch.equal(chosen[0], rejected[0])
    assert (chosen[1] > rejected[1]).all()
    around = torch.cat([side[1] - 2 * torch.sin(2 * side[0]) for side in (chosen, rejected)])
    assert around.mean().abs() < 0.01
    assert around.std() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(chosen, draw_triplets(settings, 2.0, 0)[0])
    assert not torch.equal(chosen, draw_triplets(settings, 2.0, 1)[0])
    unbiased, _ = draw_triplets(settings, 0.0, 0)
    assert torch.corrcoef(torch.stack([torch.sin(2 * unbiased[0]), unbiased[1]]))[0, 1].abs() < 0.05


def test_a_tie_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose ReLU never fires gives every answer the same reward."""
    dead = Networks(torch.tensor([[[0.0, 0.0, -1.0]]]), torch.ones(1, 1), torch.zeros(1, 1))
    settings = ToySettings(hidden_sizes=(1,), rankings=("pairwise",), learning_rates=(0.1,), betas=(1.0,), steps=1)
    monkeypatch.setattr("raydaa.toy.training.draw_networks", lambda *_: dead)
    (result,) = one_run(settings, 0.0, 0)
    assert result.accuracy.tolist() == [0.0]
    assert result.ties.tolist() == [1.0]


def test_processes_change_nothing() -> None:
    alone = [result for found in all_runs(SMALL.model_copy(update={"workers": 1})) for result in found]
    spread = [result for found in all_runs(SMALL.model_copy(update={"workers": 2})) for result in found]
    assert len(alone) == len(spread) == 4 * 2 * 2
    for one, other in zip(alone, spread, strict=True):
        assert (one.ranking, one.hidden_size, one.run) == (other.ranking, other.hidden_size, other.run)
        assert one.accuracy == pytest.approx(other.accuracy)
        assert one.ties == pytest.approx(other.ties)
