"""``python -m tests.benchmarks.busy``: what training and scoring on a CPU lose beside another busy process, and alone.

The neighbour is a plain torch process that trains on two threads. Each measurement is a process of its own; how often a
thread without work looks for it before it sleeps (``GOMP_SPINCOUNT``) is GNU OpenMP's own number or one of ``--spins``,
in turns, and what is printed are medians of ratios within one turn. Loading and tokenizing are not timed.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import raydaa
from tests.benchmarks.contestants import measure
from tests.benchmarks.figures import show
from tests.benchmarks.work import add_arguments, make_work

OWN = "300000"  # GNU OpenMP's own
NEIGHBOUR = """
import torch
torch.set_num_threads(2)
layer = torch.nn.Sequential(*[torch.nn.Linear(512, 512) for _ in range(8)])
print("at work", flush=True)
while True:
    layer(torch.randn(256, 512)).sum().backward()
"""


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """Another process at work, which waits as OpenMP does by itself."""
    environment = {**os.environ, "GOMP_SPINCOUNT": OWN}
    with subprocess.Popen([sys.executable, "-c", NEIGHBOUR], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def rates(folder: Path, arguments: list[str]) -> dict[str, float]:
    """How much of each work is done in a second."""
    figures = next(measure("raydaa", [folder], arguments))
    return {"training": figures["pairs_per_second"], "scoring": 1 / figures["reference_seconds"]}


def turn(folder: Path, arguments: list[str], waits: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Each way of waiting, alone and beside the neighbour."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in waits:
        os.environ["GOMP_SPINCOUNT"] = name
        found[name] = {"alone": rates(folder, arguments)}
        with neighbour():
            found[name]["beside"] = rates(folder, arguments)
    return found


def main() -> None:
    """Print the figures as Markdown and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, shape="256/48/48", pairs=48)
    parser.add_argument("--spins", nargs="+", default=[os.environ.get("GOMP_SPINCOUNT", "10000")])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("busy-benchmark.json"))
    options = parser.parse_args()
    arguments = ["--pairs", str(options.pairs), "--batch", str(options.batch), "--model", options.model]
    with tempfile.TemporaryDirectory() as name:
        make_work(Path(name), options)
        turns = [turn(Path(name), arguments, [OWN, *options.spins]) for _ in range(options.repeats)]
    figures: dict[str, Any] = {"version": raydaa.__version__, "cores": os.cpu_count(), "turns": turns}
    for work in ("training", "scoring"):
        for wait in (OWN, *options.spins):
            figures[f"{work}: times slower beside a neighbour, {wait}"] = statistics.median(
                each[wait]["alone"][work] / each[wait]["beside"][work] for each in turns
            )
        for wait in options.spins:
            figures[f"{work}: times as fast alone, {wait} / {OWN}"] = statistics.median(
                each[wait]["alone"][work] / each[OWN]["alone"][work] for each in turns
            )
    show(figures, options.json)


if __name__ == "__main__":
    main()
