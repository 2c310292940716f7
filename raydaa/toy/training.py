"""Thousands of small reward networks trained at once.

A network is one ReLU layer over (x, y) with a scalar output. All learning rates and β of a run see the same data
and start from the same weights, so they are one batched computation; runs go over processes. The gradient of the
ranking comes from autograd over the project's own functions; that of the network is written out, since for a ReLU
layer both weight gradients are products of one masked sum.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raydaa.algorithms.method import pairwise_logistic, pointwise_logistic
from raydaa.toy.settings import ToySettings

Ranking = Callable[[Tensor, Tensor], Tensor]
RANKINGS: dict[str, Ranking] = {"pairwise": pairwise_logistic, "pointwise": pointwise_logistic}
BLOCK = 1600  # triplets at a time: activations of a block stay in a core's cache
EPSILON = 1e-8  # torch.optim.Adam's


@dataclass
class Networks:
    """The weights of S networks with h hidden units."""

    hidden: Tensor  # (S, h, 3): of x, of y, bias
    output: Tensor  # (S, h)
    bias: Tensor  # (S, 1)

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three groups of weights."""
        return self.hidden, self.output, self.bias

    def rewards(self, inputs: Tensor) -> Tensor:
        """``(S, points)`` rewards of ``inputs``, ``(3, points)``: x, y and 1."""
        return self._forward(inputs)[1]

    def _forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        count, size = self.output.shape
        active = torch.mm(self.hidden.view(count * size, 3), inputs).relu_().view(count, size, -1)
        return active, torch.bmm(self.output[:, None], active)[:, 0] + self.bias

    def gradient(self, blocks: list[Tensor], ranking: Ranking, beta: Tensor) -> list[Tensor]:
        """Gradient of each network's loss, summed over triplets, in the shapes of `parts`.

        A block, ``(3, 2m)``, holds m triplets: the inputs of all chosen, then of all rejected.
        """
        count, size = self.output.shape
        masked_sum = torch.zeros(count * size, 3)
        bias = torch.zeros_like(self.bias)
        for block in blocks:
            active, rewards = self._forward(block)
            sides = [side.requires_grad_() for side in rewards.view(count, 2, -1).unbind(1)]
            loss = ranking(beta * sides[0], beta * sides[1]).sum()
            slope = torch.cat(torch.autograd.grad(loss, sides), dim=1)
            masked = torch.ops.aten.threshold_backward(slope[:, None].expand_as(active), active, 0)
            masked_sum.addmm_(masked.view(count * size, -1), block.T)
            bias += slope.sum(dim=1, keepdim=True)
        masked_sum = masked_sum.view(count, size, 3)
        # relu(w·u) = [w·u > 0] w·u, so the output weights' gradient is the masked sum too, seen along w.
        return [self.output[..., None] * masked_sum, (self.hidden * masked_sum).sum(dim=2), bias]


def draw_triplets(settings: ToySettings, prompt_bias: float, run: int) -> tuple[Tensor, Tensor]:
    """``(3, triplets)`` inputs (x, y, 1) of chosen and rejected. They are drawn alike, so any part is a fair split."""
    generator = np.random.default_rng([run, round(prompt_bias * 1e6)])
    x = generator.standard_normal(settings.triplets)
    y = prompt_bias * np.sin(2 * x) + settings.spread * generator.standard_normal((2, settings.triplets))
    sides = (np.stack([x, best, np.ones_like(x)]) for best in (y.max(axis=0), y.min(axis=0)))
    chosen, rejected = (torch.from_numpy(side).float() for side in sides)
    return chosen, rejected


def draw_networks(size: int, count: int, run: int) -> Networks:
    """``count`` copies of one network with ``size`` hidden units, initialised as torch.nn.Linear would be."""
    generator = np.random.default_rng([run, size])

    def uniform(fan_in: int, *shape: int) -> Tensor:
        bound = fan_in**-0.5
        return torch.from_numpy(generator.uniform(-bound, bound, shape)).float().expand(count, *shape).clone()

    return Networks(uniform(2, size, 3), uniform(size, size), uniform(size, 1))


def train(
    networks: Networks, chosen: Tensor, rejected: Tensor, ranking: Ranking, grid: Tensor, settings: ToySettings
) -> None:
    """Full-batch Adam; row s of ``grid``, ``(S, 2)``, is the learning rate and β of network s."""
    rate, beta = grid[:, :1], grid[:, 1:]
    first, second = settings.adam_betas
    blocks = [torch.cat(pair, dim=1) for pair in zip(chosen.split(BLOCK, 1), rejected.split(BLOCK, 1), strict=True)]
    means = [torch.zeros_like(part) for part in networks.parts()]
    squares = [torch.zeros_like(part) for part in networks.parts()]
    for step in range(1, settings.steps + 1):
        gradients = [part / chosen.shape[1] for part in networks.gradient(blocks, ranking, beta)]
        scale = (1 - second**step) ** 0.5
        for part, gradient, mean, square in zip(networks.parts(), gradients, means, squares, strict=True):
            mean.lerp_(gradient, 1 - first)
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            shape = (-1, *[1] * (part.dim() - 1))
            part.sub_(rate.view(shape) / (1 - first**step) * mean / (square.sqrt() / scale + EPSILON))


@dataclass(frozen=True)
class RunResult:
    """Held-out accuracies of one run: every learning rate and β of one ranking and size on one draw of data."""

    prompt_bias: float
    ranking: str
    hidden_size: int
    run: int
    accuracy: np.ndarray  # (S,): strict, a tie is a miss
    ties: np.ndarray  # (S,): share of test triplets whose two rewards are equal


def one_run(settings: ToySettings, prompt_bias: float, run: int) -> list[RunResult]:
    """All rankings and sizes on the data of one seed."""
    chosen, rejected = draw_triplets(settings, prompt_bias, run)
    grid = make_grid(settings)
    cut = settings.num_train
    results = []
    for name in settings.rankings:
        for size in settings.hidden_sizes:
            networks = draw_networks(size, len(grid), run)
            train(networks, chosen[:, :cut], rejected[:, :cut], RANKINGS[name], grid, settings)
            better, worse = (networks.rewards(side[:, cut:].contiguous()) for side in (chosen, rejected))
            accuracy = (better > worse).double().mean(1)
            ties = (better == worse).double().mean(1)
            results.append(RunResult(prompt_bias, name, size, run, accuracy.numpy(), ties.numpy()))
    return results


def make_grid(settings: ToySettings) -> Tensor:
    """``(S, 2)``: every learning rate with every β."""
    return torch.cartesian_prod(torch.tensor(settings.learning_rates), torch.tensor(settings.betas)).view(-1, 2)


def all_runs(settings: ToySettings) -> Iterator[list[RunResult]]:
    """Every run of every data setting, in order, from as many processes as there are cores.

    Processes, because operations this small would wait for one interpreter lock in threads. They import the main
    script, as `multiprocessing` does: call this below ``if __name__ == "__main__"``, or set ``workers`` to 1.
    """
    workers = len(os.sched_getaffinity(0)) if settings.workers == "auto" else settings.workers
    runs = [(settings, prompt_bias, run) for prompt_bias in settings.prompt_bias for run in range(settings.runs)]
    if workers == 1:
        yield from (one_run(*job) for job in runs)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _enter_worker) as pool:
        try:
            yield from pool.map(one_run, *zip(*runs, strict=True))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _enter_worker() -> None:
    """One core each, no answer to Ctrl-C (the parent's to give), and no life after the parent's."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
