"""Attention over packed rows, given to models through transformers' attention interface.

All sequences of a micro-batch lie in one row without padding. A block of it is a prompt with one or two responses;
a second response does not see the first and continues the prompt's positions. No block sees another. There is
no attention dropout: policies train without any.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from raydaa.data.packing import Block
from raydaa.training.flex import packed_flex

SDPA, FLEX = "raydaa_sdpa", "raydaa_flex"  # names in transformers' registry


Attend = Callable[..., Any]


def register(around: Callable[[Attend], Attend] = lambda attend: attend) -> None:
    """Make both known to transformers; models then call them with the keyword arguments of their forward."""
    from transformers import AttentionInterface
    from transformers.integrations.flash_attention import flash_attention_forward

    AttentionInterface.register(SDPA, around(packed_sdpa))
    AttentionInterface.register(FLEX, around(packed_flex))
    AttentionInterface.register("flash_attention_2", around(flash_attention_forward))


@contextlib.contextmanager
def recording_windows() -> Iterator[set[int | None]]:
    """The windows that models tell their attention inside the block, layer by layer."""
    seen: set[int | None] = set()

    def around(attend: Attend) -> Attend:
        def recording(*arguments: Any, sliding_window: int | None = None, **options: Any) -> Any:
            seen.add(sliding_window)
            return attend(*arguments, sliding_window=sliding_window, **options)

        return recording

    register(around)
    try:
        yield seen
    finally:
        register()


def packed_sdpa(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    blocks: Sequence[Block],
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """``(1, tokens, heads, size)`` from query ``(1, heads, tokens, size)``; block by block, nothing masked is computed
    but the upper triangle of second responses."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    attend = partial(_attend, scaling=scaling, window=sliding_window, softcap=softcap)
    # Split, not sliced: the gradient of a split is one concatenation, that of a slice a row of zeros for each block.
    sizes = [size for b in blocks for size in (b.first_end - b.start, b.end - b.first_end)]
    queries, keys, values = (side.split(sizes, dim=2) for side in (query, key, value))
    parts = []
    for number, block in enumerate(blocks):
        first = 2 * number
        second = 2 * number + 1
        prompt = block.prompt_end - block.start
        parts.append(attend(queries[first], keys[first], values[first]))
        if sizes[second]:
            seen = (torch.cat([side[first][:, :, :prompt], side[second]], dim=2) for side in (keys, values))
            parts.append(attend(queries[second], *seen))
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Causal attention of the last ``query`` positions of ``key``."""
    num_queries = query.shape[2]
    seen = key.shape[2]
    window = window if window is not None and window < seen else None
    if softcap is not None:
        scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        scores = softcap * torch.tanh(scores / softcap)
        scores = scores.masked_fill(~_mask(num_queries, seen, window, query.device), -math.inf)
        return torch.softmax(scores.float(), dim=-1).to(value.dtype) @ value
    if num_queries == seen and window is None:
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    mask = _mask(num_queries, seen, window, query.device)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)


@lru_cache(maxsize=32)  # every layer of a batch asks for the same ones
def _mask(num_queries: int, seen: int, window: int | None, device: torch.device) -> Tensor:
    """(num_queries, seen) bool: the last queries of ``seen`` positions look back, over ``window`` of them at most."""
    everything = torch.ones(num_queries, seen, dtype=torch.bool, device=device)
    mask = everything.tril(seen - num_queries)
    return mask if window is None else mask & everything.triu(seen - num_queries - window + 1)
