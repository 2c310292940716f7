"""From tokenized tables to micro-batches without wasted work.

A micro-batch is one row of tokens without padding. A pair is a block of it: its prompt, then both responses. The
second response does not see the first and continues the prompt's positions, so the prompt is computed once and both
log-probabilities are what two separate rows would give. Where that costs more than a second copy of the prompt, a
pair is two blocks. The loss weighs pairs, never micro-batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """Where a prompt and the one or two responses after it lie in a packed row; the second is empty where there is
    none, and a conversation is a first response without a prompt."""

    start: int
    prompt_end: int
    first_end: int
    end: int


@dataclass(frozen=True)
class PackedBatch:
    """One row of tokens, and which of them are scored for which sequence (a response, or a whole conversation)."""

    tokens: Tensor  # (tokens,) int64
    positions: Tensor  # (tokens,) int64
    blocks: tuple[Block, ...]
    columns: Tensor  # (scored,) int64: where each scored token is predicted from …
    targets: Tensor  # (scored,) int64: … and which token it is
    sequences: Tensor  # (scored,) int64: the sequence it belongs to
    lengths: Tensor  # (sequences,) float32: scored tokens of each sequence
    weights: Tensor  # (rows,) float32, rows of the table: 0 for one that only keeps the workers in step

    def to(self, device: torch.device) -> "PackedBatch":
        """The same batch on ``device``."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in values.items():
            if isinstance(value, Tensor):
                values[name] = value.to(device, non_blocking=True)
        return replace(self, **values)


@dataclass(frozen=True)
class Sharing:
    """When two responses share their prompt's tokens: always, never, or where it is cheaper.

    In a shared block the second response's attention is computed as a rectangle of which the upper triangle is
    masked; ``linear_per_cell`` says how many such cells cost as much as one token's linear layers (None: nothing is
    wasted, as with block masks).
    """

    allowed: bool = True
    linear_per_cell: float | None = None

    def worthwhile(self, prompt: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Whether a prompt of that many tokens should be shared by a longer response and one of ``second`` tokens."""
        if not self.allowed or self.linear_per_cell is None:
            return np.full(np.shape(prompt), self.allowed)
        prompt = np.asarray(prompt, float)
        second = np.asarray(second, float)
        return prompt * self.linear_per_cell >= 0.5 * (second**2 - prompt**2)


class Ragged:
    """A column of token lists as one flat array: ``column[i]`` is a view."""

    def __init__(self, column: "pa.ChunkedArray[Any]") -> None:
        lists: Any = column.combine_chunks()
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

    def __init__(self, table: pa.Table, reference: pa.Table | None = None, sharing: Sharing = Sharing()) -> None:
        self.prompts = Ragged(table["prompt_tokens"])
        self.responses = [Ragged(table["chosen_tokens"]), Ragged(table["rejected_tokens"])]
        sizes = [side.lengths for side in self.responses]
        self.shared = sharing.worthwhile(self.prompts.lengths, np.minimum(*sizes))
        self.row_lengths = np.where(self.shared, 1, 2) * self.prompts.lengths + sizes[0] + sizes[1]
        self.reference: tuple[Tensor, Tensor] | None = None
        if reference is not None:
            if not reference["pair_id"].equals(table["pair_id"]):
                raise ValueError("the reference log-probabilities belong to another table")
            chosen, rejected = (reference[f"{side}_logp"].to_numpy() for side in ("chosen", "rejected"))
            self.reference = torch.from_numpy(chosen.copy()), torch.from_numpy(rejected.copy())

    def __len__(self) -> int:
        return len(self.prompts)

    def work(self, rows: np.ndarray) -> "Work":
        """What can't be saved: of each pair the prompt once."""
        prompt = self.prompts.lengths[rows].astype(float)
        sizes = [side.lengths[rows] for side in self.responses]
        cells = prompt**2 / 2 + sum(prompt * size + size**2 / 2 for size in sizes)
        scored = float(sum(size.sum() for size in sizes))
        return Work(float(prompt.sum()) + scored, scored, float(cells.sum()))

    def pack(self, indices: Sequence[int], weight: float = 1.0) -> PackedBatch:
        """Pairs ``indices`` as one micro-batch; sequence 2i is pair i's chosen response, 2i + 1 its rejected."""
        rows = [(self.prompts[i], [side[i] for side in self.responses], bool(self.shared[i])) for i in indices]
        return pack_responses(rows, weight)


def mismatched(pairs: pa.Table) -> pa.Table:
    """The same prompts, each with both responses of the pair that follows it, the last with the first's.

    What KTO estimates its KL on. A response is cut where it would make a longer sequence than any in the table:
    the model may know no positions beyond.
    """
    prompts = Ragged(pairs["prompt_tokens"])
    sides = {n: Ragged(pairs[n]) for n in ("chosen_tokens", "rejected_tokens")}
    room = int((prompts.lengths + np.maximum(*(side.lengths for side in sides.values()))).max()) - prompts.lengths
    for name, side in sides.items():
        cut = [side[(row + 1) % len(side)][: room[row]] for row in range(len(side))]
        pairs = pairs.set_column(pairs.column_names.index(name), name, pa.array(cut, pairs[name].type))
    return pairs


class ResponseTable:
    """Prompts with one response each, for scoring what a model generated."""

    def __init__(self, prompts: list[list[int]], responses: list[list[int]]) -> None:
        self.prompts = prompts
        self.responses = responses
        self.row_lengths = np.array([len(p) + len(r) for p, r in zip(prompts, responses, strict=True)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.prompts)

    def pack(self, indices: Sequence[int], weight: float = 1.0) -> PackedBatch:
        """Responses ``indices`` as one micro-batch; sequence i is response i."""
        rows = [(np.array(self.prompts[i]), [np.array(self.responses[i])], True) for i in indices]
        return pack_responses(rows, weight)


@dataclass(frozen=True)
class Work:
    """Of some rows: tokens, those the head scores, and pairs of a query and a key that it sees."""

    tokens: float
    scored: float
    cells: float


class ExampleTable:
    """SFT conversations ready to pack."""

    def __init__(self, table: pa.Table) -> None:
        self.tokens = Ragged(table["tokens"])
        self.scored = Ragged(table["scored"])
        self.row_lengths = self.tokens.lengths

    def __len__(self) -> int:
        return len(self.tokens)

    def work(self, rows: np.ndarray) -> Work:
        """What can't be saved."""
        sizes = self.row_lengths[rows].astype(float)
        scored = float(sum(self.scored[row].sum() for row in rows))
        return Work(float(sizes.sum()), scored, float((sizes**2 / 2).sum()))

    def pack(self, indices: Sequence[int], weight: float = 1.0) -> PackedBatch:
        """Conversations ``indices`` as one micro-batch; sequence i is conversation i."""
        row = _Row()
        for number, index in enumerate(indices):
            ids = self.tokens[index]
            scored = np.flatnonzero(self.scored[index])
            scored = scored[scored > 0]  # the first token is predicted from nothing
            row.score(number, row.size + scored - 1, ids[scored])
            row.block(ids[:0], [ids])
        return row.finish(len(indices), weight)


Table = PairTable | ResponseTable | ExampleTable


def pack_responses(rows: Sequence[tuple[np.ndarray, Sequence[np.ndarray], bool]], weight: float = 1.0) -> PackedBatch:
    """Prompts with their responses, which do not see each other; the last of each says whether they share the prompt.

    Sequences are numbered in reading order.
    """
    row = _Row()
    number = 0
    for prompt, responses, shared in rows:
        # The longer response comes first: what is wasted on the second grows with its length.
        order = sorted(range(len(responses)), key=lambda side: -len(responses[side]))
        for group in [order] if shared else [[side] for side in order]:
            start = row.size + len(prompt)
            for side in group:
                response = responses[side]
                # The first token of every response is predicted from the prompt's last, wherever the response lies.
                columns = np.concatenate([[row.size + len(prompt) - 1], np.arange(start, start + len(response) - 1)])
                row.score(number + side, columns, response)
                start += len(response)
            row.block(prompt, [responses[side] for side in group])
        number += len(responses)
    return row.finish(len(rows), weight)


class _Row:
    """A packed row while it grows."""

    def __init__(self) -> None:
        self.size = 0
        self.tokens: list[np.ndarray] = []
        self.positions: list[np.ndarray] = []
        self.blocks: list[Block] = []
        self.scored: list[tuple[int, np.ndarray, np.ndarray]] = []

    def block(self, prompt: np.ndarray, responses: Sequence[np.ndarray]) -> None:
        """Append a prompt and its one or two responses."""
        ends = np.cumsum([self.size + len(prompt), *map(len, responses)]).tolist()
        self.blocks.append(Block(self.size, ends[0], ends[1], ends[-1]))
        self.tokens += [prompt, *responses]
        self.positions.append(np.arange(len(prompt)))
        self.positions += [np.arange(len(prompt), len(prompt) + len(response)) for response in responses]
        self.size = ends[-1]

    def score(self, sequence: int, columns: np.ndarray, targets: np.ndarray) -> None:
        """Tokens ``targets``, predicted from ``columns``, belong to ``sequence``."""
        self.scored.append((sequence, columns, targets))

    def finish(self, rows: int, weight: float) -> PackedBatch:
        """The batch; ``rows`` of the table, each of ``weight``."""
        sequences, columns, targets = zip(*sorted(self.scored, key=lambda item: item[0]), strict=True)
        lengths = np.array([len(target) for target in targets])

        def joined(parts: Sequence[np.ndarray]) -> Tensor:
            return torch.from_numpy(np.concatenate(parts)).long()

        return PackedBatch(
            tokens=joined(self.tokens),
            positions=joined(self.positions),
            blocks=tuple(self.blocks),
            columns=joined(columns),
            targets=joined(targets),
            sequences=torch.from_numpy(np.repeat(sequences, lengths)).long(),
            lengths=torch.from_numpy(lengths).float(),
            weights=torch.full((rows,), weight),
        )
