"""``python -m tests.benchmarks.toy``: the batched toy study against torch.nn, one network after another.

Both train the same networks on the same data; the ratio is that of networks per second, in one run. The batched
time includes starting its processes; of the other only a sample is trained, spread over the grid.
"""

import argparse
import resource
import time
from pathlib import Path

import torch
from torch import nn

from raydaa.toy.settings import ToySettings
from raydaa.toy.training import RANKINGS, all_runs, draw_triplets, make_grid
from tests.benchmarks.figures import show


def one_after_another(settings: ToySettings, sample: int) -> float:
    """Seconds per network with torch.nn and torch.optim.Adam, in torch's own number of threads."""
    grid = make_grid(settings).tolist()
    sides = [side[:2, : settings.num_train].T.contiguous() for side in draw_triplets(settings, 2.0, 0)]
    cases = [(name, size) for name in settings.rankings for size in settings.hidden_sizes]
    begun = time.perf_counter()
    for number in range(sample):
        rate, beta = grid[(5 * number) % len(grid)]
        name, size = cases[number % len(cases)]
        model = nn.Sequential(nn.Linear(2, size), nn.ReLU(), nn.Linear(size, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        for _ in range(settings.steps):
            better, worse = (beta * model(side)[:, 0] for side in sides)
            optimizer.zero_grad()
            RANKINGS[name](better, worse).mean().backward()
            optimizer.step()
    return (time.perf_counter() - begun) / sample


def main() -> None:
    """Print the figures as Markdown and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100, help="runs of the batched grid (100: one whole data setting)")
    parser.add_argument("--sample", type=int, default=48, help="networks trained one after another")
    parser.add_argument("--json", type=Path, default=Path("toy-benchmark.json"))
    options = parser.parse_args()
    settings = ToySettings(runs=options.runs, prompt_bias=(2.0,))
    networks = options.runs * len(make_grid(settings)) * len(settings.rankings) * len(settings.hidden_sizes)
    before = one_after_another(settings, options.sample // 2)
    begun = time.perf_counter()
    for _ in all_runs(settings):
        pass
    seconds = time.perf_counter() - begun
    alone = (before + one_after_another(settings, options.sample // 2)) / 2
    usage = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    figures = {
        "networks": networks,
        "seconds": seconds,
        "networks_per_second": networks / seconds,
        "torch_nn_networks_per_second": 1 / alone,
        "ratio": alone * networks / seconds,
        "peak_memory_mb_of_one_process": max(usage) / 1024,
        "threads": torch.get_num_threads(),
    }
    show(figures, options.json)


if __name__ == "__main__":
    main()
