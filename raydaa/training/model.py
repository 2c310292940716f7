"""Loading a causal language model, and scoring packed batches with it."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from raydaa.data.packing import PackedBatch, Sharing, pack_responses
from raydaa.settings_file import first_line
from raydaa.training import attention
from raydaa.training.attention import FLEX, SDPA, flex_masks, register
from raydaa.training.engine import most_of_workers

logger = logging.getLogger(__name__)

LOGITS = 1 << 23  # how many exist at a time …
CHUNK = 256  # … but for no fewer scored tokens: products of fewer rows are slow
IMPLEMENTATIONS = {"sdpa": SDPA, "flex": FLEX, "flash_attention_2": "flash_attention_2"}
ATTENTION_COST = 2.0  # time of a floating-point operation in attention over one in a linear layer


class TokenizerError(ValueError):
    """A model folder without a tokenizer that can be used; one line."""


def quiet_transformers() -> None:
    """No progress bars of single loads: a sweep makes hundreds of them. Nor what nobody here uses of it."""
    with hiding("sklearn"):  # assisted generation imports it where it lies: a second of every process's start
        import transformers.generation.candidate_generator  # noqa: F401
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)


@contextlib.contextmanager
def hiding(package: str) -> Iterator[None]:
    """``package`` is not found, unless it was imported before."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def load_tokenizer(source: str | Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a folder or hub id."""
    quiet_transformers()  # before the import that would bring what it hides
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise TokenizerError(f"{source}: the tokenizer can't be loaded: {first_line(error)}") from None


def load_model(source: str | Path, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False) -> Any:
    """A causal language model from a folder or hub id, on CPU."""
    quiet_transformers()  # before the import that would bring what it hides
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True
    )
    model.config.use_cache = False
    return model


def write_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """A Hugging Face folder (safetensors, tokenizer) of a plain model."""
    with hiding("deepspeed"):  # asked whether it wraps the model, which takes two seconds to import; it does not
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def without_dropout(model: Any) -> None:
    """Dropout would make the policy differ from its own reference at the start; nobody aligns with it."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attn_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def device_of_worker() -> torch.device:
    """The accelerator this process may use, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


class Policy(nn.Module):
    """A causal language model that answers packed batches with summed log-probabilities.

    ``wanted`` attention is auto, sdpa, flex or flash_attention_2. A model that can't take packed rows is given padded
    ones.
    """

    def __init__(self, model: Any, autocast: bool = False, wanted: str = "auto", device: Any = "cpu") -> None:
        super().__init__()
        self.model = model.to(device)
        self.autocast = autocast
        self.chunk = chunk_size(self.model.config.get_text_config().vocab_size)
        self.in_step = False  # whether all workers must call the head equally often, as ZeRO 3 asks
        self.attention = _named(wanted, self.model.device)
        if not _takes_packed_rows(self):
            self.attention = "padded"
        # Counted now: DeepSpeed may take the weights away.
        self.linear_per_cell = linear_per_cell(self.model) if self.attention == "sdpa" else None

    @property
    def sharing(self) -> Sharing:
        """When packing pairs for this model should let two responses share their prompt."""
        return Sharing(self.attention not in ("flash_attention_2", "padded"), self.linear_per_cell)

    def checkpoint_layers(self, wanted: bool) -> None:
        """Whether layers keep no activations and compute them again in the backward pass."""
        if wanted:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        elif self.model.is_gradient_checkpointing:
            self.model.gradient_checkpointing_disable()

    def forward(self, batch: PackedBatch) -> Tensor:
        """Summed log-probability of every sequence, ``(sequences,)`` float32, in nats."""
        with torch.autocast(batch.tokens.device.type, torch.bfloat16, enabled=self.autocast):
            hidden = self._padded(batch) if self.attention == "padded" else self._packed(batch)
            chunks = -(-len(batch.targets) // self.chunk)
            if self.in_step:
                chunks = most_of_workers(chunks, hidden.device)
            logps = chunked_logps(self._logits, hidden, batch.targets, chunks)
        sums = torch.zeros(len(batch.lengths), dtype=torch.float32, device=logps.device)
        return sums.index_add(0, batch.sequences, logps)

    def _packed(self, batch: PackedBatch) -> Tensor:
        """Hidden states that predict the scored tokens, ``(scored, width)``, from one row of tokens."""
        extra: dict[str, Any] = {"blocks": batch.blocks}
        if self.attention == "flex":
            extra = {"flex_masks": flex_masks(batch.blocks, batch.positions, windows(self.model.config))}
        elif self.attention == "flash_attention_2":
            starts = [block.start for block in batch.blocks] + [batch.blocks[-1].end]
            bounds = torch.tensor(starts, dtype=torch.int32, device=batch.tokens.device)
            longest = max(block.end - block.start for block in batch.blocks)
            extra = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
            extra |= {"max_length_q": longest, "max_length_k": longest}
        backbone = self.model.base_model
        output = backbone(
            input_ids=batch.tokens[None], position_ids=batch.positions[None], use_cache=False, **extra
        ).last_hidden_state
        return output[0, batch.columns]

    def _padded(self, batch: PackedBatch) -> Tensor:
        """The same from one padded row a block, for models that know no packed rows."""
        longest = max(block.end - block.start for block in batch.blocks)
        tokens = batch.tokens.new_zeros(len(batch.blocks), longest)
        mask, places = torch.zeros_like(tokens), torch.empty_like(batch.tokens)
        for number, block in enumerate(batch.blocks):
            assert block.end == block.first_end, "padded rows hold one response"
            size = block.end - block.start
            tokens[number, :size], mask[number, :size] = batch.tokens[block.start : block.end], 1
            places[block.start : block.end] = number * longest + torch.arange(size, device=places.device)
        output = self.model.base_model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
        return output.flatten(0, 1)[places[batch.columns]]

    def _logits(self, hidden: Tensor) -> Tensor:
        logits = self.model.get_output_embeddings()(hidden)
        config = self.model.config
        if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma 2
            logits = cap * torch.tanh(logits / cap)
        if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere
            logits = logits * scale
        if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
            logits = logits / divisor
        return logits


def _named(wanted: str, device: torch.device) -> str:
    if wanted == "auto":
        return "flex" if device.type == "cuda" else "sdpa"
    return wanted


def _plain(model: Any) -> str:
    """The stock attention that computes what the architecture says."""
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if capped or not model._supports_sdpa else "sdpa"


_known: dict[tuple[str, str], bool] = {}


def _takes_packed_rows(policy: Policy) -> bool:
    """Whether a packed row gives this architecture's log-probabilities: tried once in a process, on a few tokens."""
    key = (policy.model.config.to_json_string(), policy.attention)
    settable = policy.model._can_set_attn_implementation()
    register()
    if key not in _known:
        policy.eval()
        with torch.no_grad():
            # Every worker must pack alike, whatever one of them ran into.
            _known[key] = settable and not most_of_workers(int(not _tried(policy)), policy.model.device)
        if not _known[key]:
            kind = type(policy.model).__name__
            logger.warning("%s can't take packed rows with %s attention: padded rows", kind, policy.attention)
    if settable:
        policy.model.set_attn_implementation(IMPLEMENTATIONS[policy.attention] if _known[key] else _plain(policy.model))
    return _known[key]


def _tried(policy: Policy) -> bool:
    attention.windows_seen.clear()
    try:
        same = _same_as_plain(policy)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError, NotImplementedError):
        return False
    return same and _windows_reach_attention(policy.model.config.get_text_config())


def _windows_reach_attention(config: Any) -> bool:
    """Whether attention hears of every limit to what a token sees; some models put it into their masks alone."""
    if getattr(config, "attention_chunk_size", None) is not None:
        return False
    kinds = getattr(config, "layer_types", None)
    limited = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    if kinds is not None:
        limited = any(kind != "full_attention" for kind in kinds)
    return not limited or any(window is not None for window in attention.windows_seen)


def _same_as_plain(policy: Policy) -> bool:
    model, sharing = policy.model, policy.attention != "flash_attention_2"
    generator = torch.Generator().manual_seed(0)
    sizes = [(5, (7, 3)), (2, (4, 6))]

    def draw(size: int) -> np.ndarray:
        return torch.randint(0, model.config.get_text_config().vocab_size, (size,), generator=generator).numpy()

    rows = [(draw(prompt), [draw(size) for size in responses], sharing) for prompt, responses in sizes]
    model.set_attn_implementation(_plain(model))
    alone = []
    for prompt, responses, _ in rows:
        for response in responses:
            tokens = torch.from_numpy(np.concatenate([prompt, response])).to(model.device)
            logits = model(tokens[None], use_cache=False).logits[0, len(prompt) - 1 : -1].float()
            alone.append(-cross_entropy(logits, tokens[len(prompt) :], reduction="sum"))
    model.set_attn_implementation(IMPLEMENTATIONS[policy.attention])
    # FlashAttention takes no float32; DeepSpeed casts weights only later.
    with torch.autocast(model.device.type, torch.bfloat16, enabled=policy.attention == "flash_attention_2"):
        packed = policy(pack_responses(rows).to(model.device))
    exact = model.dtype == torch.float32 and not policy.autocast and policy.attention != "flash_attention_2"
    return bool(torch.allclose(packed, torch.stack(alone), rtol=1e-4 if exact else 2e-2, atol=1e-3 if exact else 0.2))


def chunk_size(vocabulary: int) -> int:
    """Scored tokens whose logits exist at a time."""
    return max(CHUNK, LOGITS // vocabulary)


def chunked_logps(logits_of: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, chunks: int) -> Tensor:
    """log-probability of each target, ``(scored,)`` float32, from hidden states ``(scored, width)``.

    Logits exist for one of ``chunks`` parts at a time, forward and backward: the backward pass computes them again,
    unless there is one part alone, which it would have to hold anyway.
    Not torch's own ``linear_cross_entropy``: its losses have the dtype of the hidden states, too coarse for sums over
    bf16 tokens, it caps no logits, and it takes a weight that ZeRO 3 gathers for modules only.
    """

    def logps(part: Tensor, aim: Tensor) -> Tensor:
        return -cross_entropy(logits_of(part).float(), aim, reduction="none")

    if chunks == 1:
        return logps(hidden, targets)
    parts = zip(hidden.tensor_split(chunks), targets.tensor_split(chunks), strict=True)
    return torch.cat([checkpoint(logps, part, aim, use_reentrant=False) for part, aim in parts])


def linear_per_cell(model: Any) -> float:
    """How many attention cells (one query, one key) cost as much as one token's linear layers."""
    config = model.config.get_text_config()
    embeddings = sum(p.numel() for p in model.get_input_embeddings().parameters())
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        embeddings *= 2
    layers = (sum(p.numel() for p in model.parameters()) - embeddings) / config.num_hidden_layers
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return layers / (2 * config.num_attention_heads * size * ATTENTION_COST)


def windows(config: Any) -> tuple[int | None, ...]:
    """What a model's layers may see: the whole past (None), a sliding window, or both kinds of layers."""
    return (None,) if getattr(config, "sliding_window", None) is None else (None, config.sliding_window)


class StartWeights:
    """The starting model of this process's trials: loaded once, its weights copied back before each trial."""

    def __init__(self) -> None:
        self._source: str | None = None
        self._model: Any = None
        self._weights: dict[str, Tensor] = {}

    def fresh(self, source: str, trust_remote_code: bool = False) -> Any:
        """The model of ``source`` with its own weights, whatever an earlier trial made of them."""
        if source != self._source:
            self._model = load_model(source, trust_remote_code=trust_remote_code)
            self._weights = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
            self._source = source
        else:
            with torch.no_grad():
                for name, tensor in self._model.state_dict().items():
                    tensor.copy_(self._weights[name])
            self._model.zero_grad(set_to_none=True)
        return self._model
