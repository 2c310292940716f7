"""transformers 5.17 to 5.19."""

from typing import Any


def takes_attention(model: Any) -> bool:
    """Whether the modelling code asks the attention interface, so that ours may be put in its place."""
    return bool(model._can_set_attn_implementation())


def has_sdpa(model: Any) -> bool:
    """Whether the architecture's own sdpa computes what its eager attention does."""
    return bool(model._supports_sdpa)
