"""``python -m tests.benchmarks.serving``: a swap of weights against a cold start, requests at once against one by one.

A Llama of the size that ``--hidden`` and ``--layers`` say is made twice with other weights. The pool starts with one
and is asked for the other, to and fro; what a swap takes is the time of a request that needs one less that of a request
that doesn't. Then an endpoint answers requests of 10 to 2,000 tokens, ``--at-once`` of them and one by one.
"""

import argparse
import concurrent.futures
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import torch

import raydaa
from raydaa.cluster import connected
from raydaa.generation.pool import served
from raydaa.generation.sample import Sampling
from raydaa.generation.serving import Serving
from raydaa.store.artifacts import model_hash
from raydaa.training.model import load_model
from tests.benchmarks.figures import show
from tests.models import make_llama

TURNS, LONGEST = 10, 2000
ONE_TOKEN = Sampling(0.0, 0, 1.0, 1, seed=0)


def timed(work: Callable[[], Any]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def checkpoints(folder: Path, hidden: int, layers: int) -> list[Path]:
    """Two models of one architecture."""
    one = make_llama(folder / "one", ["some words to learn letters from"] * 3, hidden=hidden, layers=layers)
    model = load_model(one)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    make_llama(folder / "other", ["some words to learn letters from"] * 3, hidden=hidden, layers=layers)
    model.save_pretrained(folder / "other")
    return [one, folder / "other"]


def swaps(models: list[Path], gpus: float) -> dict[str, Any]:
    """Seconds of a cold start up to the first answer, and of a swap."""
    versions = [model_hash(path) for path in models]
    begun = time.monotonic()
    serving = Serving(model=models[0], name="policy", max_model_len=256, gpus=gpus)
    with served(serving, "raydaa-benchmark") as pool:

        def ask(place: int) -> None:
            pool.ask(models[place], versions[place], [[1, 5, 6]], ["0" * 12], ONE_TOKEN, 2)()

        ask(0)
        cold = time.monotonic() - begun
        staying = [timed(lambda: ask(0)) for _ in range(TURNS)]
        swapping = [timed(lambda place=turn % 2: ask(place)) for turn in range(1, TURNS + 1)]
    swap = statistics.median(swapping) - statistics.median(staying)
    return {"cold start (s)": cold, "swap (s)": swap, "cold start / swap": cold / swap}


def ragged(model: Path, at_once: int, gpus: float) -> dict[str, Any]:
    """Tokens per second of requests that end anywhere from 10 to 2,000 tokens."""
    sizes = [round(10 * (LONGEST / 10) ** (place / (at_once - 1))) for place in range(at_once)]
    settings: dict[str, Any] = {"max_num_seqs": at_once, "max_model_len": LONGEST + 16, "gpus": gpus}
    with raydaa.serve(model, name="policy", **settings) as endpoint:
        client = openai.OpenAI(base_url=endpoint.url, api_key="none", max_retries=0, timeout=1200)

        def ask(size: int) -> int:
            more = {"ignore_eos": True}
            answer = client.completions.create(model="policy", prompt=[1, 5, 6], max_tokens=size, extra_body=more)
            assert answer.usage is not None
            return answer.usage.completion_tokens

        ask(16)
        with concurrent.futures.ThreadPoolExecutor(at_once) as crowd:
            begun = time.monotonic()
            answered = list(crowd.map(ask, sizes))
            together = sum(sizes) / (time.monotonic() - begun)
        some = sizes[:: max(1, at_once // 8)][:6]
        alone = sum(some) / timed(lambda: [ask(size) for size in some])
    return {
        "requests": at_once,
        "answered in full": sum(found == size for found, size in zip(answered, sizes, strict=True)),
        "tokens/s at once": together,
        "tokens/s one by one": alone,
        "at once / one by one": together / alone,
    }


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--gpus", type=float, default=0)
    parser.add_argument("--json", type=Path, default=Path("serving-benchmark.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, connected(None):
        models = checkpoints(Path(name), options.hidden, options.layers)
        figures = swaps(models, options.gpus)
        figures |= ragged(models[0], options.at_once, options.gpus)
    show(figures, options.json)


if __name__ == "__main__":
    main()
