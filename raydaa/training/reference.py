"""Log-probabilities of responses under a fixed model: computed once, kept, shared by everyone who asks again."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from raydaa.data.batches import split_work
from raydaa.data.packing import PackedBatch, PairTable, Table, mismatched
from raydaa.store.tables import REFERENCE, column, read, write
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


@dataclass(frozen=True)
class Scoring:
    """How a model that is not trained is asked for log-probabilities."""

    precision: str
    budget: int  # tokens of a micro-batch
    attention: str = "auto"
    trust_remote_code: bool = False
    apart: bool = False  # its weights are spread over the workers of a group
    cpu_offload: bool = False  # of such weights

    @property
    def half(self) -> bool:
        """Whether weights are bf16 on this worker's device."""
        return self.precision == "bf16" and device_of_worker().type == "cuda"


@contextlib.contextmanager
def scorer(source: str, scoring: Scoring) -> Iterator[Policy]:
    """A model for scoring only, on this worker's device or spread over all workers."""
    if not scoring.apart:
        yield make_policy(source, scoring.precision, scoring.trust_remote_code, scoring.attention)
        return
    from raydaa.training.zero import gathering

    (policy,) = _spread(scoring, source)
    with gathering(policy, scoring.half, scoring.cpu_offload):
        yield policy


@contextlib.contextmanager
def two_scorers(source: str, start: str, scoring: Scoring) -> Iterator["TwoPolicies"]:
    """A model and what it started from, which is of the same architecture, as `scorer` has one."""
    if not scoring.apart:
        before = make_policy(start, scoring.precision, scoring.trust_remote_code, scoring.attention)
        model = fixed_model(source, scoring.precision, scoring.trust_remote_code)
        policy = Policy(model, before.autocast, before.way, device_of_worker()).eval()
        yield TwoPolicies(policy, before)
        return
    from raydaa.training.zero import gathering

    before, policy = _spread(scoring, start, source)
    both = TwoPolicies(policy, before)
    with gathering(both, scoring.half, scoring.cpu_offload):
        yield both


def _spread(scoring: Scoring, *sources: str) -> list[Policy]:
    """Models whose weights are spread over all workers, to be gathered layer by layer; all of one architecture."""
    from raydaa.training.zero import load_on_first, take_apart, way_on_first

    dtype = torch.bfloat16 if scoring.half else torch.float32
    autocast = scoring.precision == "bf16" and not scoring.half
    way = way_on_first(sources[0], dtype, autocast, scoring.attention, scoring.trust_remote_code)
    policies: list[Policy] = []
    for source in sources:
        model = load_on_first(source, dtype, scoring.trust_remote_code)
        take_apart(model, scoring.half, scoring.cpu_offload)
        policies.append(Policy(model, autocast, way, device_of_worker(), tokens=scoring.budget).eval())
    return policies


class TwoPolicies(nn.Module):
    """A model beside what it started from: how far apart they are at each token that the model may write next."""

    def __init__(self, policy: Policy, start: Policy) -> None:
        super().__init__()
        self.policy = policy
        self.start = start

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        """Of every sequence, ``(sequences, 3)`` float64 in nats: log-probability under the model and under its start,
        and Σ_t KL(π(·|x, y_<t) ‖ π_start(·|x, y_<t)), which is not drawn but summed over all tokens of the vocabulary.

        Logits of both exist for one part of the tokens at a time.
        """
        of_policy = self.policy.logits_of(batch)
        of_start = self.start.logits_of(batch)
        figures: list[torch.Tensor] = []
        # Twice as many parts: there are two models, and probabilities beside logits.
        for numbers in torch.arange(len(batch.targets)).tensor_split(2 * self.policy.num_parts(len(batch.targets))):
            if not len(numbers):
                continue
            part = slice(int(numbers[0]), int(numbers[-1]) + 1)
            logps = of_policy(part).log_softmax(-1)
            before = of_start(part).log_softmax(-1)
            probabilities = logps.exp()
            # A token that can't come adds nothing, though both of its log-probabilities may be −∞.
            apart = torch.where(probabilities > 0, probabilities * (logps - before), 0.0).sum(-1)
            targets = batch.targets[part, None]
            of_targets = [logps.gather(1, targets)[:, 0], before.gather(1, targets)[:, 0]]
            figures.append(torch.stack([*of_targets, apart.clamp(min=0)], dim=1).double())
        sums = torch.zeros(len(batch.lengths), 3, dtype=torch.float64, device=batch.tokens.device)
        return sums.index_add(0, batch.sequences, torch.cat(figures))


def score(policy: Policy, table: Table, rows: np.ndarray, budget: int) -> np.ndarray:
    """Summed log-probabilities (nats, float64) of the responses in ``rows``, ``(len(rows), responses per row)``."""
    result = np.zeros((len(rows), 2 if isinstance(table, PairTable) else 1))
    for places, sums in _sums(policy, table, rows, budget):
        result[places] = sums
    return result


def score_share(policy: nn.Module, table: Table, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """This worker's share of a table: numbers of rows, and what ``policy`` gives for each row's responses.

    All workers ask the model equally often, which one that is spread over them needs.
    """
    shares = list(_sums(policy, table, np.arange(len(table)), budget, world_size(), rank()))
    rows = [row for places, _ in shares for row in places]
    return np.array(rows, int), np.concatenate([sums for _, sums in shares]) if rows else np.zeros((0, 2))


def _sums(
    policy: nn.Module, table: Table, rows: np.ndarray, budget: int, workers: int = 1, worker: int = 0
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Places in ``rows`` and their sums, micro-batch by micro-batch."""
    device = next(policy.parameters()).device
    with torch.no_grad():
        for first in range(0, len(rows), BLOCK * workers):
            block = rows[first : first + BLOCK * workers]
            lengths = table.row_lengths[block]
            for places in split_work(lengths, workers, budget)[worker]:
                numbers = [int(block[index]) for index in places or [int(lengths.argmin())]]
                logps = policy(table.pack(numbers).to(device)).double().cpu().numpy().reshape(len(numbers), -1)
                if places:
                    yield [first + index for index in places], logps


def write_share(source: str, tables: dict[str, str], folder: Path, scoring: Scoring, mismatch: bool = False) -> float:
    """This worker's share of the reference log-probabilities of each table, as ``folder/<name>.<rank>.parquet``.

    Returns the seconds of scoring alone, which are what trials save that find them. ``mismatch``: each prompt is
    scored with the next pair's responses instead of its own.
    """
    seconds = 0.0
    with scorer(source, scoring) as policy:
        for name, path in tables.items():
            pairs = read(Path(path))
            table = PairTable(mismatched(pairs) if mismatch else pairs, sharing=policy.sharing)
            began = time.monotonic()
            rows, sums = score_share(policy, table, scoring.budget)
            seconds += time.monotonic() - began
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
        write(folder / f"{name}.parquet", [logps[i] for i in column(read(Path(path)), "pair_id")], REFERENCE)
