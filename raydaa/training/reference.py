"""Log-probabilities of responses under a fixed model: computed once, kept, shared by everyone who asks again."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raydaa.data.packing import PairTable, Table, mismatched, split_work
from raydaa.store.tables import REFERENCE, read, write
from raydaa.training.collectives import rank, world_size
from raydaa.training.device import device_of_worker
from raydaa.training.model import Policy, load_model

BLOCK = 1024  # rows ordered by length together


def fixed_model(source: str, precision: str, trust_remote_code: bool = False) -> Any:
    """A model that is not trained, on this worker's device: bf16 where asked on a GPU, else float32."""
    on_gpu = device_of_worker().type == "cuda"
    dtype = torch.bfloat16 if precision == "bf16" and on_gpu else torch.float32
    return load_model(source, dtype, trust_remote_code).to(device_of_worker()).eval()


def make_policy(source: str, precision: str, trust_remote_code: bool = False, attention: str = "auto") -> Policy:
    """A model for scoring only, on this worker's device."""
    model = fixed_model(source, precision, trust_remote_code)
    autocast = precision == "bf16" and model.dtype == torch.float32
    return Policy(model, autocast, attention, device_of_worker()).eval()


@contextlib.contextmanager
def scorer(source: str, options: dict[str, Any]) -> Iterator[Policy]:
    """A model for scoring only, on this worker's device or, with ``apart``, spread over all workers.

    ``options``: precision, budget (tokens of a micro-batch), trust_remote_code, attention, apart, cpu_offload.
    """
    precision, trust = options["precision"], options["trust_remote_code"]
    if not options["apart"]:
        yield make_policy(source, precision, trust, options["attention"])
        return
    from raydaa.training.zero import gathering, load_on_first, take_apart

    device = device_of_worker()
    half = precision == "bf16" and device.type == "cuda"
    model = load_on_first(source, torch.bfloat16 if half else torch.float32, trust)
    take_apart(model, half, options["cpu_offload"])
    policy = Policy(model, precision == "bf16" and not half, None, device).eval()
    with gathering(policy, half, options["cpu_offload"]):
        policy.choose(options["attention"])
        policy.keep_in_step(options["budget"])
        yield policy.eval()


def score(policy: Policy, table: Table, rows: np.ndarray, budget: int) -> np.ndarray:
    """Summed log-probabilities (nats, float64) of the responses in ``rows``, ``(len(rows), responses per row)``."""
    result = np.zeros((len(rows), 2 if isinstance(table, PairTable) else 1))
    for places, sums in _sums(policy, table, rows, budget):
        result[places] = sums
    return result


def score_share(policy: Policy, table: Table, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """This worker's share of a table: numbers of rows, and what `score` gives for them.

    All workers ask the model equally often, which one that is spread over them needs.
    """
    shares = list(_sums(policy, table, np.arange(len(table)), budget, world_size(), rank()))
    rows = [row for places, _ in shares for row in places]
    return np.array(rows, int), np.concatenate([sums for _, sums in shares]) if rows else np.zeros((0, 2))


def _sums(
    policy: Policy, table: Table, rows: np.ndarray, budget: int, workers: int = 1, worker: int = 0
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Places in ``rows`` and their sums, micro-batch by micro-batch."""
    responses = 2 if isinstance(table, PairTable) else 1
    device = next(policy.parameters()).device
    with torch.no_grad():
        for first in range(0, len(rows), BLOCK * workers):
            block = rows[first : first + BLOCK * workers]
            lengths = table.row_lengths[block]
            for places in split_work(lengths, workers, budget)[worker]:
                asked = [int(block[place]) for place in places or [int(lengths.argmin())]]
                logps = policy(table.pack(asked).to(device)).double().cpu().numpy().reshape(-1, responses)
                if places:
                    yield [first + place for place in places], logps


def write_share(source: str, tables: dict[str, str], folder: Path, options: dict[str, Any]) -> float:
    """This worker's share of the reference log-probabilities of each table, as ``folder/<name>.<rank>.parquet``.

    Returns the seconds of scoring alone, which are what trials save that find them.

    ``options``: those of `scorer`, and mismatched (whether each prompt is scored with the next pair's responses
    instead of its own).
    """
    seconds = 0.0
    with scorer(source, options) as policy:
        for name, path in tables.items():
            pairs = read(Path(path))
            table = PairTable(mismatched(pairs) if options["mismatched"] else pairs, sharing=policy.sharing)
            begun = time.monotonic()
            rows, sums = score_share(policy, table, options["budget"])
            seconds += time.monotonic() - begun
            ids = pairs["pair_id"].to_numpy()[rows]
            records = [
                {"pair_id": int(i), "chosen_logp": float(c), "rejected_logp": float(r)}
                for i, (c, r) in zip(ids, sums, strict=True)
            ]
            write(folder / f"{name}.{rank()}.parquet", records, REFERENCE)
    return seconds


def join_shares(folder: Path, tables: dict[str, str], workers: int) -> None:
    """Put the workers' shares back into the order of each table, and drop the shares."""
    for name, path in tables.items():
        logps: dict[int, dict[str, float]] = {}
        for worker in range(workers):
            share = folder / f"{name}.{worker}.parquet"
            logps |= {record["pair_id"]: record for record in read(share).to_pylist()}
            share.unlink()
        write(folder / f"{name}.parquet", [logps[i] for i in read(Path(path))["pair_id"].to_pylist()], REFERENCE)
