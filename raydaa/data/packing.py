"""From tokenized tables to micro-batches without wasted work.

A pair is one row: its prompt, then both responses. The second response does not see the first and continues
the prompt's positions, so the prompt is computed once and both log-probabilities are what two separate rows
would give. Rows of one micro-batch have similar length; the loss weighs pairs, never micro-batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

PROMPT, PADDING = 0, -1  # segments; responses count from 1


@dataclass(frozen=True)
class PackedBatch:
    """Rows of tokens, and which tokens are scored for which sequence (a response, or a whole conversation)."""

    tokens: Tensor  # (rows, length) int64, right-padded
    positions: Tensor  # (rows, length) int64
    segments: Tensor | None  # (rows, length) int64: PROMPT, PADDING, or the response's number; None: plain causal
    rows: Tensor  # (scored,) int64: where each scored token is predicted from …
    columns: Tensor  # (scored,) int64
    targets: Tensor  # (scored,) int64: … and which token it is
    sequences: Tensor  # (scored,) int64: the sequence it belongs to
    lengths: Tensor  # (sequences,) float32: scored tokens of each sequence
    weights: Tensor  # (rows,) float32: 0 for a row that only keeps the workers in step

    def to(self, device: torch.device) -> "PackedBatch":
        """The same batch on ``device``."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.to(device, non_blocking=True) for k, v in moved.items() if v is not None})

    def attention_mask(self) -> Tensor | None:
        """(rows, 1, length, length) bool: who sees whom; None where plain causal attention is meant."""
        if self.segments is None:
            return None
        length = self.tokens.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.tokens.device).tril()
        query, key = self.segments[:, :, None], self.segments[:, None, :]
        return (causal & ((key == PROMPT) | (key == query)))[:, None]


class Ragged:
    """A column of token lists as one flat array: ``column[i]`` is a view."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        lists = column.combine_chunks()
        if isinstance(lists, pa.ChunkedArray):
            lists = lists.chunk(0) if lists.num_chunks else pa.array([], lists.type)
        self.offsets = lists.offsets.to_numpy()
        self.values = lists.values.to_numpy(zero_copy_only=False)
        self.lengths = np.diff(self.offsets)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def __len__(self) -> int:
        return len(self.lengths)


class PairTable:
    """Preference pairs ready to pack, with the reference sums where a loss needs them."""

    def __init__(self, table: pa.Table, reference: pa.Table | None = None) -> None:
        self.prompts = Ragged(table["prompt_tokens"])
        self.responses = [Ragged(table["chosen_tokens"]), Ragged(table["rejected_tokens"])]
        self.row_lengths = self.prompts.lengths + self.responses[0].lengths + self.responses[1].lengths
        self.reference: tuple[Tensor, Tensor] | None = None
        if reference is not None:
            if not reference["pair_id"].equals(table["pair_id"]):
                raise ValueError("the reference log-probabilities belong to another table")
            self.reference = _sums(reference)

    def __len__(self) -> int:
        return len(self.prompts)

    def pack(self, indices: Sequence[int], weight: float = 1.0) -> PackedBatch:
        """Pairs ``indices`` as one micro-batch; sequence 2i is pair i's chosen response, 2i + 1 its rejected."""
        rows = [(self.prompts[i], [responses[i] for responses in self.responses]) for i in indices]
        return pack_responses(rows, weight)


class MismatchedTable:
    """Each prompt with both responses of the pair that follows it in the table, the last with the first's.

    What KTO estimates its KL on. A response is cut where it would make a longer sequence than any in the table:
    the model may know no positions beyond.
    """

    def __init__(self, pairs: PairTable, reference: pa.Table | None = None) -> None:
        self.prompts, self.responses = pairs.prompts, pairs.responses
        self.next = np.roll(np.arange(len(pairs)), -1)
        sizes = [responses.lengths for responses in self.responses]
        room = int((self.prompts.lengths + np.maximum(*sizes)).max()) - self.prompts.lengths
        self.kept = [np.minimum(size[self.next], room) for size in sizes]
        self.row_lengths = self.prompts.lengths + self.kept[0] + self.kept[1]
        self.reference = None if reference is None else _sums(reference)

    def __len__(self) -> int:
        return len(self.prompts)

    def pack(self, indices: Sequence[int], weight: float = 1.0) -> PackedBatch:
        """Prompts ``indices`` as one micro-batch; sequence 2i is under the next pair's chosen response."""
        rows = [
            (self.prompts[i], [r[self.next[i]][: kept[i]] for r, kept in zip(self.responses, self.kept, strict=True)])
            for i in indices
        ]
        return pack_responses(rows, weight)


def _sums(reference: pa.Table) -> tuple[Tensor, Tensor]:
    chosen, rejected = (reference[f"{side}_logp"].to_numpy() for side in ("chosen", "rejected"))
    return torch.from_numpy(chosen.copy()), torch.from_numpy(rejected.copy())


class ResponseTable:
    """Prompts with one response each, for scoring what a model generated."""

    def __init__(self, prompts: list[list[int]], responses: list[list[int]]) -> None:
        self.prompts, self.responses = prompts, responses
        self.row_lengths = np.array([len(p) + len(r) for p, r in zip(prompts, responses, strict=True)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.prompts)

    def pack(self, indices: Sequence[int], weight: float = 1.0) -> PackedBatch:
        """Responses ``indices`` as one micro-batch; sequence i is response i."""
        return pack_responses([(np.array(self.prompts[i]), [np.array(self.responses[i])]) for i in indices], weight)


class ExampleTable:
    """SFT conversations ready to pack."""

    def __init__(self, table: pa.Table) -> None:
        self.tokens, self.scored = Ragged(table["tokens"]), Ragged(table["scored"])
        self.row_lengths = self.tokens.lengths

    def __len__(self) -> int:
        return len(self.tokens)

    def pack(self, indices: Sequence[int], weight: float = 1.0) -> PackedBatch:
        """Conversations ``indices`` as one micro-batch; sequence i is conversation i."""
        length = int(max(self.row_lengths[i] for i in indices))
        tokens = np.zeros((len(indices), length), np.int64)
        rows, columns, targets = [], [], []
        for row, index in enumerate(indices):
            ids, scored = self.tokens[index], np.flatnonzero(self.scored[index])
            scored = scored[scored > 0]  # the first token is predicted from nothing
            tokens[row, : len(ids)] = ids
            rows.append(np.full(len(scored), row))
            columns.append(scored - 1)
            targets.append(ids[scored])
        return _batch(tokens, None, None, rows, columns, targets, weight)


Table = PairTable | MismatchedTable | ResponseTable | ExampleTable


def pack_responses(rows: Sequence[tuple[np.ndarray, Sequence[np.ndarray]]], weight: float = 1.0) -> PackedBatch:
    """Each row a prompt and its responses, which do not see each other; sequences in reading order."""
    length = max(len(prompt) + sum(map(len, responses)) for prompt, responses in rows)
    tokens = np.zeros((len(rows), length), np.int64)
    positions = np.zeros((len(rows), length), np.int64)
    segments = np.full((len(rows), length), PADDING, np.int64)
    scored_rows, columns, targets = [], [], []
    for row, (prompt, responses) in enumerate(rows):
        size = len(prompt)
        tokens[row, :size], positions[row, :size], segments[row, :size] = prompt, np.arange(size), PROMPT
        start = size
        for number, response in enumerate(responses, start=1):
            end = start + len(response)
            tokens[row, start:end], segments[row, start:end] = response, number
            positions[row, start:end] = np.arange(size, size + len(response))
            scored_rows.append(np.full(len(response), row))
            # The first token of every response is predicted from the prompt's last, wherever the response lies.
            columns.append(np.concatenate([[size - 1], np.arange(start, end - 1)]))
            targets.append(response)
            start = end
    shared = any(len(responses) > 1 for _, responses in rows)
    return _batch(tokens, positions, segments if shared else None, scored_rows, columns, targets, weight)


def _batch(
    tokens: np.ndarray,
    positions: np.ndarray | None,
    segments: np.ndarray | None,
    rows: list[np.ndarray],
    columns: list[np.ndarray],
    targets: list[np.ndarray],
    weight: float,
) -> PackedBatch:
    if positions is None:
        positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape).copy()
    lengths = np.array([len(target) for target in targets])
    return PackedBatch(
        torch.from_numpy(tokens),
        torch.from_numpy(positions),
        None if segments is None else torch.from_numpy(segments),
        torch.from_numpy(np.concatenate(rows)).long(),
        torch.from_numpy(np.concatenate(columns)).long(),
        torch.from_numpy(np.concatenate(targets)).long(),
        torch.from_numpy(np.repeat(np.arange(len(targets)), lengths)).long(),
        torch.from_numpy(lengths).float(),
        torch.full((tokens.shape[0],), weight),
    )


def global_batches(size: int, batch_size: int, epochs: float, seed: int) -> list[np.ndarray]:
    """Indices of every step's global batch: epochs shuffled one after another, cut into equal batches.

    A batch may span two epochs; what is left at the very end is less than a batch and is not used. Fewer
    items than one batch make one smaller batch.
    """
    shuffled = [np.random.default_rng([seed, epoch]).permutation(size) for epoch in range(int(np.ceil(epochs)))]
    order = np.concatenate(shuffled)[: max(1, round(size * epochs))]
    steps = num_steps(size, batch_size, epochs)
    return [order[step * batch_size : (step + 1) * batch_size] for step in range(steps)]


def num_steps(size: int, batch_size: int, epochs: float) -> int:
    """How many global batches `global_batches` gives."""
    return max(1, round(size * epochs) // batch_size)


def subset(size: int, fraction: float) -> np.ndarray:
    """Rows of the first ``fraction`` of a table in a fixed shuffled order; smaller fractions are nested in larger."""
    chosen = np.random.default_rng([0, size]).permutation(size)[: max(1, round(size * fraction))]
    return np.sort(chosen)


def split_work(lengths: np.ndarray, workers: int, budget: int) -> list[list[list[int]]]:
    """For each worker its micro-batches, as positions in ``lengths``; every worker gets the same number of them.

    Items are dealt from the longest down, to and fro, so that workers carry about the same tokens; each worker's
    share is then cut where a padded micro-batch would exceed ``budget`` tokens. A worker with fewer micro-batches
    gets empty ones: it must run something there, or collective operations would wait for it for ever.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-int(lengths[i]), i))
    shares: list[list[int]] = [[] for _ in range(workers)]
    for place, item in enumerate(order):
        lap, seat = divmod(place, workers)
        shares[seat if lap % 2 == 0 else workers - 1 - seat].append(item)
    plans = [_cut(share, lengths, budget) for share in shares]
    most = max(map(len, plans))
    return [plan + [[]] * (most - len(plan)) for plan in plans]


def _cut(share: list[int], lengths: np.ndarray, budget: int) -> list[list[int]]:
    plan: list[list[int]] = []
    for item in share:
        # Lengths fall, so the first item of a micro-batch is its longest: its length is every row's.
        if plan and (len(plan[-1]) + 1) * int(lengths[plan[-1][0]]) <= budget:
            plan[-1].append(item)
        else:
            plan.append([item])
    return plan
