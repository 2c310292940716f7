"""Log-probabilities of responses under a fixed model: computed once, kept, shared by everyone who asks again."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raydaa.data.packing import PairTable, Table, mismatched, split_work
from raydaa.records import REFERENCE, read, write
from raydaa.training.device import device_of_worker
from raydaa.training.engine import rank, world_size
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


def score(policy: Policy, table: Table, rows: np.ndarray, budget: int) -> np.ndarray:
    """Summed log-probabilities (nats, float64) of the responses in ``rows``, ``(len(rows), responses per row)``."""
    responses = 2 if isinstance(table, PairTable) else 1
    result = np.zeros((len(rows), responses))
    device = next(policy.parameters()).device
    with torch.no_grad():
        for first in range(0, len(rows), BLOCK):
            block = rows[first : first + BLOCK]
            for places in split_work(table.row_lengths[block], 1, budget)[0]:
                logps = policy(table.pack([int(block[place]) for place in places]).to(device))
                result[[first + place for place in places]] = logps.double().cpu().numpy().reshape(-1, responses)
    return result


def write_share(source: str, tables: dict[str, str], folder: Path, options: dict[str, Any]) -> float:
    """This worker's share of the reference log-probabilities of each table, as ``folder/<name>.<rank>.parquet``.

    Returns the seconds of scoring alone, which are what trials save that find them.

    ``options``: precision, budget (tokens of a micro-batch), trust_remote_code, attention, and mismatched (whether
    each prompt is scored with the next pair's responses instead of its own).
    """
    policy = make_policy(source, options["precision"], options["trust_remote_code"], options["attention"])
    seconds = 0.0
    for name, path in tables.items():
        pairs = read(Path(path))
        table = PairTable(mismatched(pairs) if options["mismatched"] else pairs, sharing=policy.sharing)
        rows = np.arange(rank(), len(table), world_size())
        begun = time.monotonic()
        sums = score(policy, table, rows, options["budget"])
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
