"""Small real models made on the spot: a byte-level tokenizer trained on given texts, and a Llama to go with it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIALS = ["<pad>", "<bos>", "<eos>"]


def make_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE without a chat template."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


def make_llama(folder: Path, texts: Iterable[str], vocab_size: int = 400, hidden: int = 64, layers: int = 2) -> Path:
    """A randomly initialised Llama with its tokenizer, as a Hugging Face folder."""
    tokenizer = make_tokenizer(texts, vocab_size)
    tokenizer.save_pretrained(folder)
    return save_llama(folder, len(tokenizer), hidden, layers)


def save_llama(
    folder: Path,
    vocab_size: int,
    hidden: int,
    layers: int,
    heads: int = 0,
    inner: int = 0,
    positions: int = 2048,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    **more: Any,
) -> Path:
    """The weights of a randomly initialised Llama, always the same ones; heads of 32 and an inner width of twice the
    outer where nothing else is said. ``device`` is where they are drawn."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=inner or 2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads or hidden // 32,
        max_position_embeddings=positions,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **more,
    )
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        LlamaForCausalLM._from_config(config, dtype=dtype).save_pretrained(folder)
    return folder
