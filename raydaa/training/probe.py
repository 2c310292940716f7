"""How a model is asked for log-probabilities so that they are those of its own forward pass: tried on a few tokens.

Packed rows with our own head over scored tokens are what is fastest. An architecture whose attention can't take packed
rows is given padded ones; one whose head is more than a matrix (a multiplier, a second layer) is asked for its own
logits. Where nothing agrees with the plain forward pass there is no number to be trusted, and no study.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from raydaa.compat.transformers import has_sdpa, takes_attention
from raydaa.data.packing import PackedBatch, pack_responses
from raydaa.errors import MachineError, RaydaaError, first_line
from raydaa.training.attention import FLEX, SDPA, recording_windows, register
from raydaa.training.collectives import most_of_workers

logger = logging.getLogger(__name__)

IMPLEMENTATIONS = {"sdpa": SDPA, "flex": FLEX, "flash_attention_2": "flash_attention_2"}
PADDED = "padded"


class ArchitectureError(RaydaaError, ValueError):
    """No way of asking this architecture gives the log-probabilities of its own forward pass; one line."""


class Asked(Protocol):
    """What is tried: a policy."""

    model: Any
    autocast: bool

    def ask(self, batch: PackedBatch, way: "Way") -> Tensor:
        """Summed log-probabilities, asked for in a given way."""

    def eval(self) -> Any:
        """As `torch.nn.Module.eval`."""


@dataclass(frozen=True)
class Way:
    """``attention`` is over packed rows, or `PADDED`; ``own_head``: whole logits by the model itself."""

    attention: str
    own_head: bool = False


_known: dict[tuple[type, str, str], Way] = {}


def find_way(policy: Asked, wanted: str, alone: bool = False) -> Way:
    """The fastest way that agrees with the model's plain forward pass, once in a process for an architecture.

    The model's attention is set to it. Every worker of a group finds the same, unless one looks ``alone``.
    ArchitectureError where there is none.
    """
    model = policy.model
    key = (type(model), model.config.to_json_string(), wanted)
    settable = takes_attention(model)
    register()
    if key not in _known:
        policy.eval()
        with torch.no_grad():
            _known[key] = _first_that_agrees(policy, wanted, settable, alone)
        if _known[key] != Way(wanted):
            how = "padded rows" if _known[key].attention == PADDED else "packed rows"
            head = " and its own head" if _known[key].own_head else ""
            logger.warning("%s with %s attention: %s%s", type(model).__name__, wanted, how, head)
    set_way(model, _known[key])
    return _known[key]


def set_way(model: Any, way: Way) -> None:
    """The model's attention is that of ``way``."""
    register()
    if way.attention != PADDED:
        model.set_attn_implementation(IMPLEMENTATIONS[way.attention])
    else:
        _be_plain(model)


def _be_plain(model: Any) -> None:
    """The stock attention where the architecture has a choice."""
    with contextlib.suppress(ValueError):  # some say that they have one and have none, as Mamba
        if takes_attention(model):
            model.set_attn_implementation(plain_attention(model))


def _ways(wanted: str, settable: bool) -> Iterator[Way]:
    for name in [wanted] * settable + [PADDED]:
        yield Way(name)
        yield Way(name, own_head=True)


def _first_that_agrees(policy: Asked, wanted: str, settable: bool, alone: bool) -> Way:
    model = policy.model
    rows = _drawn_rows(model, sharing=wanted != "flash_attention_2")
    _be_plain(model)
    try:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=policy.autocast):
            plain = [_plain_logp(model, prompt, response) for prompt, responses, _ in rows for response in responses]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of somebody's modelling code
        raise ArchitectureError(f"{type(model).__name__} can't be run: {first_line(error)}") from None
    expected = torch.stack(plain)
    for way in _ways(wanted, settable):
        agrees = bool(torch.isfinite(expected).all()) and _agrees(policy, way, rows, expected)
        # Every worker must pack alike, whatever one of them ran into.
        if agrees if alone else not most_of_workers(int(not agrees), model.device):
            return way
    raise ArchitectureError(
        f"{type(model).__name__} is not supported: its log-probabilities could not be had as its own forward pass "
        f"gives them"
    )


def _drawn_rows(model: Any, sharing: bool) -> list[tuple[np.ndarray, list[np.ndarray], bool]]:
    """A few random prompts with two responses each."""
    generator = torch.Generator().manual_seed(0)
    size = model.get_input_embeddings().weight.shape[0]

    def draw(length: int) -> np.ndarray:
        return torch.randint(0, size, (length,), generator=generator).numpy()

    return [(draw(prompt), [draw(length) for length in responses], sharing) for prompt, responses in SIZES]


SIZES = [(5, (7, 3)), (2, (4, 6))]  # tokens of prompts and their responses


def _plain_logp(model: Any, prompt: np.ndarray, response: np.ndarray) -> Tensor:
    tokens = torch.from_numpy(np.concatenate([prompt, response])).to(model.device)
    logits = model(tokens[None], use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return -cross_entropy(logits, tokens[len(prompt) :], reduction="sum")


def _agrees(policy: Asked, way: Way, rows: list[Any], expected: Tensor) -> bool:
    model = policy.model
    packed = way.attention != PADDED
    flash = way.attention == "flash_attention_2"
    tried = [(prompt, responses, shares and packed) for prompt, responses, shares in rows]
    try:
        set_way(model, way)
        # FlashAttention takes no float32; DeepSpeed casts weights only later.
        with recording_windows() as windows, torch.autocast(model.device.type, torch.bfloat16, enabled=flash):
            logps = policy.ask(pack_responses(tried).to(model.device), way)
    except (torch.OutOfMemoryError, MachineError):  # neither says anything about the architecture
        raise
    except Exception:  # of somebody's modelling code, asked for what it may not know
        return False
    exact = model.dtype == torch.float32 and not policy.autocast and not flash
    relative, absolute = (1e-5, 5e-4) if exact else (2e-2, 0.2)
    same = torch.allclose(logps, expected, rtol=relative, atol=absolute)
    return same and (not packed or _windows_reach_attention(model.config.get_text_config(), windows))


def plain_attention(model: Any) -> str:
    """The stock attention that computes what the architecture says."""
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if capped or not has_sdpa(model) else "sdpa"


def _windows_reach_attention(config: Any, seen: set[int | None]) -> bool:
    """Whether attention hears of every limit to what a token sees; some models put it into their masks alone."""
    if getattr(config, "attention_chunk_size", None) is not None:
        return False
    kinds = getattr(config, "layer_types", None)
    limited = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    if kinds is not None:
        limited = any(kind != "full_attention" for kind in kinds)
    return not limited or any(window is not None for window in seen)
