"""Loading a causal language model, and scoring packed batches with it."""

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from raydaa.compat.imports import hiding, quiet_transformers
from raydaa.data.packing import PackedBatch, Sharing
from raydaa.training.collectives import whole_size
from raydaa.training.flex import SMALLEST_HEAD, flex_masks
from raydaa.training.probe import PADDED, Way, find_way, set_way
from raydaa.training.tokenizer import mended

WHOLE = 2_000_000_000  # bytes of weights up to which a model is loaded as it is
LAYERS = 4  # of a larger one: enough to meet every kind that architectures alternate
LOGITS, LOGITS_ON_GPU = 1 << 23, 1 << 27  # how many exist at a time …
CHUNK = 256  # … but for no fewer scored tokens: products of fewer rows are slow
ATTENTION_COST = 2.0  # time of a floating-point operation in attention over one in a linear layer


def load_model(
    source: str | Path, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False, **options: Any
) -> Any:
    """A causal language model from a folder or hub id, on CPU; ``options`` are `from_pretrained`'s."""
    quiet_transformers()  # before the import that would bring what it hides
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True, **options
    )
    model.config.use_cache = False
    return model


def load_few_layers(folder: Path, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False) -> Any:
    """A model on the CPU, of a large one only the first layers: enough to see how it can be asked."""
    from transformers import AutoConfig

    if sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= WHOLE:
        return load_model(folder, dtype, trust_remote_code)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    layers = text.num_hidden_layers
    for name, value in vars(text).items():
        if isinstance(value, list | tuple) and len(value) == layers:
            setattr(text, name, value[:LAYERS])
    text.num_hidden_layers = min(layers, LAYERS)
    return load_model(folder, dtype, trust_remote_code, config=config)


def write_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """A Hugging Face folder (safetensors, tokenizer) of a plain model."""
    model.generation_config = mended(model.generation_config)
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


def _checkpoint_layers(model: Any, wanted: bool) -> None:
    """Whether layers keep no activations and compute them again in the backward pass."""
    if wanted:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    elif model.is_gradient_checkpointing:
        model.gradient_checkpointing_disable()


class Policy(nn.Module):
    """A causal language model that answers packed batches with summed log-probabilities.

    Args:
        model: A causal language model of transformers'.
        autocast: Whether products are taken in bf16.
        attention: What is wanted (auto, sdpa, flex or flash_attention_2), of what `find_way` finds possible; or the
            way that was found before, for a model that can't be asked alone.
        device: Where the model is to lie.
        chunk: Scored tokens whose logits exist at a time.
        checkpoint_layers: Whether layers keep no activations.
        tokens: Of every micro-batch, where the head must be called equally often in each, as for `keep_in_step`.

    Raises:
        ArchitectureError: Where nothing gives the log-probabilities of the model's own forward pass.
    """

    def __init__(
        self,
        model: Any,
        autocast: bool = False,
        attention: str | Way = "auto",
        device: Any = "cpu",
        chunk: int | None = None,
        checkpoint_layers: bool = False,
        tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model.to(device)
        self.autocast = autocast
        on_gpu = self.model.device.type == "cuda"
        self.chunk = chunk or chunk_size(self.model.config.get_text_config().vocab_size, on_gpu)
        _checkpoint_layers(self.model, checkpoint_layers)
        self.laid_out = 0  # tokens of all micro-batches so far
        self.padding = 0  # those of them that mean nothing
        self.calls: int | None = None  # of the head in every forward pass; None: as many as it takes
        if tokens is not None:
            self.keep_in_step(tokens)
        if isinstance(attention, Way):
            self.way = attention
            set_way(self.model, attention)
        else:
            self.way = find_way(self, named_attention(attention, self.model))
        self.linear_per_cell = linear_per_cell(self.model) if self.attention == "sdpa" else None

    @property
    def attention(self) -> str:
        """sdpa, flex or flash_attention_2 over packed rows, or padded."""
        return self.way.attention

    @property
    def sharing(self) -> Sharing:
        """When packing pairs for this model should let two responses share their prompt."""
        return Sharing(self.attention not in ("flash_attention_2", "padded"), self.linear_per_cell)

    def keep_in_step(self, tokens: int) -> None:
        """Call the head as often in every micro-batch as one of ``tokens`` asks for.

        ZeRO 3 gathers weights by the order of calls: all workers' must be the same, and the next micro-batch's like
        the last one's, or nothing is fetched ahead and the head is gathered anew for each of its calls.
        """
        self.calls = -(-tokens // self.chunk)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Summed log-probability of every sequence, ``(sequences,)`` float32, in nats."""
        return self.ask(batch, self.way)

    def logits_of(self, batch: PackedBatch) -> Callable[[slice], Tensor]:
        """What gives the logits of a slice of the scored tokens, ``(scored, vocabulary)`` float32; not for training."""
        with torch.autocast(batch.tokens.device.type, torch.bfloat16, enabled=self.autocast):
            inputs, places = self._laid_out(batch, self.way)
            if self.way.own_head:
                logits = self._own_logits(inputs, places)
                return lambda part: logits[part].float()
            hidden = self._hidden(inputs, places)

        def of_part(part: slice) -> Tensor:
            with torch.autocast(batch.tokens.device.type, torch.bfloat16, enabled=self.autocast):
                return self._logits(hidden[part]).float()

        return of_part

    def num_parts(self, scored: int) -> int:
        """Into how many parts so many scored tokens are cut for the head."""
        return self.calls or -(-scored // self.chunk)

    def ask(self, batch: PackedBatch, way: Way) -> Tensor:
        """`forward` in a given way."""
        with torch.autocast(batch.tokens.device.type, torch.bfloat16, enabled=self.autocast):
            inputs, places = self._laid_out(batch, way)
            self.laid_out += inputs["input_ids"].numel()
            if way.own_head:
                logits = self._own_logits(inputs, places)
                logps = -cross_entropy(logits.float(), batch.targets, reduction="none")
            else:
                hidden = self._hidden(inputs, places)
                logps = chunked_logps(self._logits, hidden, batch.targets, self.num_parts(len(batch.targets)))
        sums = torch.zeros(len(batch.lengths), dtype=torch.float32, device=logps.device)
        return sums.index_add(0, batch.sequences, logps)

    def _laid_out(self, batch: PackedBatch, way: Way) -> tuple[dict[str, Any], Tensor]:
        """The model's input, and where in it scored tokens are predicted from."""
        return self._padded(batch) if way.attention == PADDED else self._packed(batch, way.attention)

    def _hidden(self, inputs: dict[str, Any], places: Tensor) -> Tensor:
        output = self.model.base_model(**inputs, use_cache=False).last_hidden_state
        return output.flatten(0, 1)[places]

    def _packed(self, batch: PackedBatch, attention: str) -> tuple[dict[str, Any], Tensor]:
        """One row of tokens, and where in it scored tokens are predicted from."""
        extra: dict[str, Any] = {"blocks": batch.blocks}
        if attention == "flex":
            extra = {"flex_masks": flex_masks(batch.blocks, batch.positions, windows(self.model.config))}
        elif attention == "flash_attention_2":
            starts = [block.start for block in batch.blocks] + [batch.blocks[-1].end]
            bounds = torch.tensor(starts, dtype=torch.int32, device=batch.tokens.device)
            longest = max(block.end - block.start for block in batch.blocks)
            extra = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
            extra |= {"max_length_q": longest, "max_length_k": longest}
        return {"input_ids": batch.tokens[None], "position_ids": batch.positions[None], **extra}, batch.columns

    def _padded(self, batch: PackedBatch) -> tuple[dict[str, Any], Tensor]:
        """The same of one padded row a block, for models that know no packed rows; places count through all rows."""
        longest = max(block.end - block.start for block in batch.blocks)
        tokens = batch.tokens.new_zeros(len(batch.blocks), longest)
        mask = torch.zeros_like(tokens)
        places = torch.empty_like(batch.tokens)
        self.padding += tokens.numel() - len(batch.tokens)
        for number, block in enumerate(batch.blocks):
            assert block.end == block.first_end, "padded rows hold one response"
            size = block.end - block.start
            tokens[number, :size] = batch.tokens[block.start : block.end]
            mask[number, :size] = 1
            places[block.start : block.end] = number * longest + torch.arange(size, device=places.device)
        return {"input_ids": tokens, "attention_mask": mask}, places[batch.columns]

    def _own_logits(self, inputs: dict[str, Any], places: Tensor) -> Tensor:
        """The model's own logits at ``places``, ``(scored, vocabulary)``; all of them exist at once."""
        one_row = inputs["input_ids"].shape[0] == 1
        if one_row and "logits_to_keep" in signature(self.model.forward).parameters:
            return self.model(**inputs, use_cache=False, logits_to_keep=places).logits[0]
        return self.model(**inputs, use_cache=False).logits.flatten(0, 1)[places]

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


def named_attention(wanted: str, model: Any) -> str:
    """``auto`` resolved: flex on a GPU where heads are large enough for it."""
    if wanted == "auto":
        flex = model.device.type == "cuda" and _head_size(model.config.get_text_config()) >= SMALLEST_HEAD
        return "flex" if flex else "sdpa"
    return wanted


def _head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def chunk_size(vocabulary: int, on_gpu: bool = False) -> int:
    """Scored tokens whose logits exist at a time."""
    return max(CHUNK, (LOGITS_ON_GPU if on_gpu else LOGITS) // vocabulary)


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
    embeddings = sum(whole_size(p) for p in model.get_input_embeddings().parameters())
    head = model.get_output_embeddings()
    if head is not None and getattr(head, "weight", None) is not model.get_input_embeddings().weight:
        embeddings *= 2
    layers = (sum(whole_size(p) for p in model.parameters()) - embeddings) / config.num_hidden_layers
    return layers / (2 * config.num_attention_heads * _head_size(config) * ATTENTION_COST)


def windows(config: Any) -> tuple[int | None, ...]:
    """What a model's layers may see: the whole past (None), a sliding window, or both kinds of layers."""
    return (None,) if getattr(config, "sliding_window", None) is None else (None, config.sliding_window)
