"""Loading a causal language model, and scoring packed batches with it."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raydaa.data.packing import PackedBatch


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
        source, dtype=dtype, attn_implementation="sdpa", trust_remote_code=trust_remote_code, use_safetensors=True
    )
    model.config.use_cache = False
    return model


def device_of_worker() -> torch.device:
    """The accelerator this process may use, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


class Policy(nn.Module):
    """A causal language model that answers packed batches with summed log-probabilities."""

    def __init__(self, model: Any, autocast: bool = False) -> None:
        super().__init__()
        self.model = model
        self.autocast = autocast

    def forward(self, batch: PackedBatch) -> Tensor:
        """Summed log-probability of every sequence, ``(sequences,)`` float32, in nats."""
        with torch.autocast(batch.tokens.device.type, torch.bfloat16, enabled=self.autocast):
            hidden = self.model.base_model(
                input_ids=batch.tokens,
                position_ids=batch.positions,
                attention_mask=batch.attention_mask(),
                use_cache=False,
            ).last_hidden_state
            # Only tokens that are scored get logits: the head is the widest matrix of a small model.
            logits = self._head(hidden[batch.rows, batch.columns])
        logps = torch.log_softmax(logits.float(), dim=-1).gather(1, batch.targets[:, None])[:, 0]
        sums = torch.zeros(len(batch.lengths), dtype=torch.float32, device=logps.device)
        return sums.index_add(0, batch.sequences, logps)

    def _head(self, hidden: Tensor) -> Tensor:
        logits = self.model.get_output_embeddings()(hidden)
        config = self.model.config
        if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma 2
            logits = cap * torch.tanh(logits / cap)
        if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere
            logits = logits * scale
        if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
            logits = logits / divisor
        return logits


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
