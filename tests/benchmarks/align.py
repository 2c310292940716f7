"""``python -m tests.benchmarks.align --against trl``: pairs per second and peak memory, against TRL's DPOTrainer.

Both train the same model on the same token ids. Each measurement is a process of its own, the contestants take turns,
and what is printed are medians of ratios within one turn. Loading, tokenizing and reference log-probabilities are not
timed; the first steps warm up. Model and data are made on the spot; ``--data`` takes a Parquet file of real pairs.
A third contestant does nothing but our step's matrix products and attention: whoever makes the same ones is no faster,
so ``throughput the products alone allow`` bounds every ratio. On a GPU:
``--model 1B --shape ultrafeedback --precision bf16 --max-length 2048 --batch 32 --pairs 512 --warm-up 5``.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks import contestants
from tests.benchmarks.contestants import CONTESTANTS, ON_GPU, matrix_rate, measure
from tests.benchmarks.figures import show
from tests.benchmarks.work import add_arguments, make_work, operations


def compare(options: argparse.Namespace, arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """Turns of all contestants, and the medians of their ratios."""
    turns = []
    for _ in range(options.repeats):
        turn: dict[str, Any] = {name: next(measure(name, [folder], arguments)) for name in CONTESTANTS}
        turn["matrix_flops"] = matrix_rate(options.precision)
        turns.append(turn)
        print(json.dumps(turn), file=sys.stderr)
    flops = operations(folder)

    def median(of: Any) -> float:
        return statistics.median(of(turn) for turn in turns)

    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"  # platform.processor() is often empty
    machine = torch.cuda.get_device_name() if ON_GPU else f"{processor}, {os.cpu_count()} cores"
    figures: dict[str, Any] = {"work": options.data or options.shape, "machine": machine, "turns": turns}
    for name in CONTESTANTS:
        figures[f"{name}: pairs/s"] = median(lambda turn, name=name: turn[name]["pairs_per_second"])
        figures[f"{name}: peak MB"] = median(lambda turn, name=name: turn[name]["peak_mb"])
    for name in CONTESTANTS[2:]:
        for key, what in (("pairs_per_second", "throughput"), ("peak_mb", "memory")):
            figures[f"{what} / {name}"] = median(lambda t, name=name, key=key: t["raydaa"][key] / t[name][key])
        figures[f"throughput the products alone allow / {name}"] = median(
            lambda t, name=name: t["products"]["pairs_per_second"] / t[name]["pairs_per_second"]
        )
    figures["share of the matrix rate"] = median(
        lambda turn: turn["raydaa"]["pairs_per_second"] * flops / turn["matrix_flops"]
    )
    return figures


def main() -> None:
    """Print the figures as Markdown and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", choices=["trl"], default="trl")
    add_arguments(parser, shape="256/48/48", pairs=96)
    contestants.add_arguments(parser)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("align-benchmark.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make_work(Path(name), options)
        figures = compare(options, sys.argv[1:], Path(name))
    show(figures, options.json)


if __name__ == "__main__":
    main()
