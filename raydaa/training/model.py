"""Loading a causal language model, and scoring packed batches with it."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from raydaa.data.packing import PackedBatch, Sharing, pack_responses
from raydaa.training.attention import FLEX, SDPA, flex_masks, register

logger = logging.getLogger(__name__)

LOGITS = 1 << 23  # how many exist at a time …
CHUNK = 256  # … but for no fewer scored tokens: products of fewer rows are slow
IMPLEMENTATIONS = {"sdpa": SDPA, "flex": FLEX, "flash_attention_2": "flash_attention_2"}
ATTENTION_COST = 2.0  # time of a floating-point operation in attention over one in a linear layer


class TokenizerError(ValueError):
    """A model folder without a tokenizer that can be used; one line."""


def quiet_transformers() -> None:
    """No progress bars of single loads: a sweep makes hundreds of them."""
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)


def load_tokenizer(source: str | Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a folder or hub id."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TokenizerError(f"{source}: the tokenizer can't be loaded: {reason}") from None


def load_model(source: str | Path, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False) -> Any:
    """A causal language model from a folder or hub id, on CPU, in training mode without dropout surprises."""
    from transformers import AutoModelForCausalLM

    quiet_transformers()
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True
    )
    model.config.use_cache = False
    return model


def device_of_worker() -> torch.device:
    """The accelerator this process may use, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


class Policy(nn.Module):
    """A causal language model that answers packed batches with summed log-probabilities.

    ``attention`` is auto, sdpa, flex or flash_attention_2. A model that can't take packed rows is given padded ones.
    """

    def __init__(self, model: Any, autocast: bool = False, attention: str = "auto", device: Any = "cpu") -> None:
        super().__init__()
        self.model = model.to(device)
        self.autocast = autocast
        self.vocabulary = self.model.config.get_text_config().vocab_size
        self.attention = asked = _named(attention, self.model.device)
        if not _takes_packed_rows(self):
            logger.warning("%s can't take packed rows with %s attention: padded rows", type(model).__name__, asked)
            self.attention = "padded"

    @property
    def sharing(self) -> Sharing:
        """When packing pairs for this model should let two responses share their prompt."""
        if self.attention in ("flash_attention_2", "padded"):
            return Sharing(allowed=False)
        return Sharing() if self.attention == "flex" else Sharing(linear_per_cell=linear_per_cell(self.model))

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
            logps = chunked_logps(self._logits, hidden, batch.targets, chunk_size(self.vocabulary))
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


def _named(attention: str, device: torch.device) -> str:
    if attention == "auto":
        return "flex" if device.type == "cuda" else "sdpa"
    return attention


def _plain(model: Any) -> str:
    """The stock attention that computes what the architecture says."""
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if capped or not model._supports_sdpa else "sdpa"


_known: dict[tuple[str, str], bool] = {}


def _takes_packed_rows(policy: Policy) -> bool:
    """Whether a packed row gives this architecture's log-probabilities: tried once on a few tokens, as a check that
    cannot miss what the code of an unknown model does."""
    key = (policy.model.config.to_json_string(), policy.attention)
    register()
    if not policy.model._can_set_attn_implementation():
        return False
    if key not in _known:
        policy.eval()
        with torch.no_grad():
            try:
                _known[key] = _tried(policy)
            except (TypeError, ValueError, RuntimeError, KeyError, AttributeError, NotImplementedError):
                _known[key] = False
    policy.model.set_attn_implementation(IMPLEMENTATIONS[policy.attention] if _known[key] else _plain(policy.model))
    return _known[key]


def _tried(policy: Policy) -> bool:
    model, sharing = policy.model, policy.sharing.allowed
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
    packed = policy(pack_responses(rows).to(model.device))
    exact = model.dtype == torch.float32 and not policy.autocast
    return bool(torch.allclose(packed, torch.stack(alone), rtol=1e-4 if exact else 2e-2, atol=1e-3 if exact else 0.2))


def chunk_size(vocabulary: int) -> int:
    """Scored tokens whose logits exist at a time."""
    return max(CHUNK, LOGITS // vocabulary)


def chunked_logps(logits_of: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, chunk: int) -> Tensor:
    """log-probability of each target, ``(scored,)`` float32, from hidden states ``(scored, width)``.

    Logits exist for ``chunk`` tokens at a time, forward and backward: the backward pass computes them again.
    """

    def logps(part: Tensor, aim: Tensor) -> Tensor:
        return -cross_entropy(logits_of(part).float(), aim, reduction="none")

    parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
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
