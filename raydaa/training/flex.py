"""FlexAttention over packed rows: one kernel, which skips what a mask of tiles rules out.

The mask is worked out on the CPU from where the blocks lie. torch's own maker would lay out every token with every
token, or be compiled anew whenever a row has another length.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydaa.compat.torch import allow_variants
from raydaa.data.packing import Block
from raydaa.errors import MachineError, first_line

TILE = 128  # tokens, asked and seen; the kernels' own
SMALLEST_HEAD = 16  # numbers; the kernels take no smaller ones
# Short rows would get the kernel for decoding, which has no variant for most ratios of heads.
OPTIONS = {"FORCE_USE_FLEX_ATTENTION": True}


def packed_flex(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    flex_masks: dict[int | None, Any],
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """``(1, tokens, heads, size)`` from query ``(1, heads, tokens, size)``; MachineError where the compiler fails."""

    def capped(score: Tensor, *_: Tensor) -> Tensor:
        assert softcap is not None
        return softcap * torch.tanh(score / softcap)

    mask = flex_masks[sliding_window]
    try:
        output = _flex()(
            query,
            key,
            value,
            score_mod=None if softcap is None else capped,
            block_mask=mask,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
            kernel_options=OPTIONS,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # Dynamo, Inductor, Triton and the C compiler have one for each of their faults
        raise MachineError(f"FlexAttention could not be compiled: {first_line(error)}") from error
    return output.transpose(1, 2), None


@lru_cache(maxsize=1)
def _flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return compiled(flex_attention) if torch.cuda.is_available() else flex_attention


def compiled(function: Callable[..., Any], backend: str | Callable[..., Any] = "inductor") -> Any:
    """``function`` for rows of any length. A variant too many is an error: uncompiled it would lay out all scores."""
    # Of every kind of layer: with and without gradients, of one tile, of fewer tokens than a tile, of more.
    allow_variants(64)
    return torch.compile(function, dynamic=True, fullgraph=True, backend=backend)


def flex_masks(blocks: Sequence[Block], positions: Tensor, windows: Sequence[int | None]) -> dict[int | None, Any]:
    """A block mask for each of ``windows`` (None: the whole past), over the row that ``blocks`` and ``positions``
    describe."""
    segments = torch.empty((2, len(positions)), dtype=torch.int64)
    for number, block in enumerate(blocks):
        segments[0, block.start : block.end] = number
        segments[1, block.start : block.prompt_end] = 0
        segments[1, block.prompt_end : block.first_end] = 1
        segments[1, block.first_end : block.end] = 2
    owner, part = segments.to(positions.device)
    return {window: _block_mask(blocks, window, owner, part, positions) for window in dict.fromkeys(windows)}


def _block_mask(blocks: Sequence[Block], window: int | None, owner: Tensor, part: Tensor, positions: Tensor) -> Any:
    from torch.nn.attention.flex_attention import BlockMask

    def visible(batch: Tensor, head: Tensor, query: Tensor, seen: Tensor) -> Tensor:
        own = (owner[query] == owner[seen]) & (query >= seen)
        return own & ((part[seen] == 0) | (part[seen] == part[query]))

    def near(batch: Tensor, head: Tensor, query: Tensor, seen: Tensor) -> Tensor:
        assert window is not None
        return visible(batch, head, query, seen) & (positions[query] - positions[seen] < window)

    size = len(positions)
    partial, full = mask_tiles(blocks, window)
    mask = BlockMask.from_kv_blocks(
        *_in_order(partial),
        *_in_order(full),
        BLOCK_SIZE=TILE,
        mask_mod=visible if window is None else near,
        seq_lengths=(size, size),
    )
    return mask.to(positions.device)


def mask_tiles(blocks: Sequence[Block], window: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Which tiles of a row hold pairs of tokens of which the first sees the second, but not all of them, and which
    hold nothing else: two of ``(tiles, tiles)`` bool."""
    starts, ends = _seen(blocks, window)
    count = -(-starts.shape[1] // TILE)
    query_tiles = np.broadcast_to(np.arange(starts.shape[1]) // TILE, starts.shape)
    met = ends > starts
    touched = _covered(query_tiles[met], starts[met] // TILE, -(-ends[met] // TILE), count)
    first, last = -(-starts // TILE), ends // TILE
    inside = last > first
    full = _covered(query_tiles[inside], first[inside], last[inside], count) == TILE
    return (touched > 0) & ~full, full


def _seen(blocks: Sequence[Block], window: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that each token sees, as two ranges: starts and ends ``(2, tokens)``; of one's own part, and of the
    prompt before a second response."""
    size = blocks[-1].end
    past = size if window is None else window
    places = np.arange(size)
    starts, ends = np.zeros((2, size), dtype=np.int64), np.zeros((2, size), dtype=np.int64)
    ends[0] = places + 1
    for block in blocks:
        first, second = slice(block.start, block.first_end), slice(block.first_end, block.end)
        starts[0, first] = np.maximum(block.start, places[first] + 1 - past)
        starts[0, second] = np.maximum(block.first_end, places[second] + 1 - past)
        skipped = block.first_end - block.prompt_end  # the second response's positions go on from the prompt's
        starts[1, second] = np.maximum(block.start, places[second] - skipped + 1 - past)
        ends[1, second] = block.prompt_end
    return starts, ends


def _covered(rows: np.ndarray, first: np.ndarray, last: np.ndarray, count: int) -> np.ndarray:
    """``(count, count)``: how many of the ranges ``first`` to ``last`` (not included) of each row hold each column."""
    changes = np.zeros((count, count + 1), dtype=np.int64)
    np.add.at(changes, (rows, first), 1)
    np.add.at(changes, (rows, last), -1)
    return changes.cumsum(axis=1)[:, :count]


def _in_order(tiles: np.ndarray) -> tuple[Tensor, Tensor]:
    """How many tiles each row of tiles has, and their columns, those it has first: as block masks hold them."""
    columns = np.argsort(~tiles, axis=1, kind="stable")
    counts, places = (
        torch.from_numpy(np.ascontiguousarray(values, np.int32)) for values in (tiles.sum(axis=1), columns)
    )
    return counts[None, None], places[None, None]
