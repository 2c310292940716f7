"""What the training benchmarks train: random Llamas on the spot, and pairs that are real or drawn to a shape."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from raydaa.settings.training import LoraSettings
from raydaa.training.memory import Shape
from tests.models import SPECIALS, make_tokenizer, save_llama

SIDES = ("prompt", "chosen", "rejected")
MODELS: dict[str, dict[str, Any]] = {
    "15M": {"vocab_size": 8192, "hidden": 384, "layers": 6, "heads": 6, "inner": 1024},
    "1B": {
        "vocab_size": 128256,
        "hidden": 2048,
        "layers": 16,
        "heads": 32,
        "inner": 8192,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "8B": {"vocab_size": 128256, "hidden": 4096, "layers": 32, "heads": 32, "inner": 14336, "num_key_value_heads": 8},
    "tiny": {"vocab_size": 512, "hidden": 64, "layers": 2, "heads": 4, "inner": 128},
}
ON_CARD = ("8B",)  # drawn there and kept in bf16: a CPU would take minutes
# Log-normal lengths in tokens, median and spread, as these sets are shaped: many short prompts with long answers, and
# long posts with one-sentence summaries.
SHAPES = {
    "ultrafeedback": {"prompt": (90, 1.0), "chosen": (240, 0.8), "rejected": (220, 0.8)},
    "tldr": {"prompt": (350, 0.35), "chosen": (34, 0.35), "rejected": (32, 0.35)},
}


def add_arguments(parser: argparse.ArgumentParser, shape: str, pairs: int) -> None:
    """What a benchmark's command line says of its work."""
    parser.add_argument("--data", help="Parquet file with prompt, chosen, rejected, split")
    parser.add_argument(
        "--shape", default=shape, help=f"tokens of prompt/chosen/rejected without --data, or one of {', '.join(SHAPES)}"
    )
    parser.add_argument("--pairs", type=int, default=pairs)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--model", choices=MODELS, default="15M")


def make_work(folder: Path, options: argparse.Namespace) -> None:
    """A model folder and pairs as texts and token ids."""
    size = MODELS[options.model]["vocab_size"]
    texts = _real(options) if options.data else _drawn(options.shape, options.pairs, options.max_length, size)
    tokenizer = make_tokenizer((v for text in texts for v in text.values()), size) if options.data else _words(size)
    make_model(folder / "model", options.model, options.max_length, tokenizer)
    _write_pairs(folder, texts, tokenizer, options.max_length)


def make_model(folder: Path, name: str, longest: int, tokenizer: Any = None) -> None:
    """A random Llama; with a tokenizer of words where no other is given."""
    size = MODELS[name]
    (tokenizer or _words(size["vocab_size"])).save_pretrained(folder)
    on_card = {"dtype": torch.bfloat16, "device": "cuda"} if name in ON_CARD and torch.cuda.is_available() else {}
    save_llama(folder, **size, positions=max(2048, longest), **on_card)
    if on_card:
        torch.cuda.empty_cache()


def make_pairs(folder: Path, shape: str, pairs: int, longest: int) -> None:
    """Pairs for the model that lies in ``folder/model``, drawn to a shape."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    _write_pairs(folder, _drawn(shape, pairs, longest, len(tokenizer)), tokenizer, longest)


def _write_pairs(folder: Path, texts: list[dict[str, str]], tokenizer: Any, longest: int) -> None:
    eos, rows = tokenizer.eos_token_id, []
    for number, text in enumerate(texts):
        prompt = tokenizer(text["prompt"])["input_ids"]
        sides = [[*tokenizer(text[side])["input_ids"], eos] for side in SIDES[1:]]
        chosen, rejected = (side[: longest - len(prompt)] for side in sides)
        rows.append({"pair_id": number, "prompt_tokens": prompt, "chosen_tokens": chosen, "rejected_tokens": rejected})
    (folder / "texts.json").write_text(json.dumps(texts))
    (folder / "rows.json").write_text(json.dumps(rows))


def _real(options: argparse.Namespace) -> list[dict[str, str]]:
    import pyarrow.parquet as pq

    table = pq.read_table(options.data, columns=[*SIDES, "split"]).to_pylist()
    rows = [row for row in table if row["split"] == "train" and len(row["prompt"]) < options.max_length]
    return [{name: row[name] for name in SIDES} for row in rows[: options.pairs]]


def _drawn(shape: str, pairs: int, longest: int, vocabulary: int) -> list[dict[str, str]]:
    """Texts of words that are a token each; a response's end token counts."""
    rng, words = np.random.default_rng(0), vocabulary - len(SPECIALS)
    texts = []
    for _ in range(pairs):
        plain = {name: size - (name != "prompt") for name, size in _sizes(shape, longest, rng).items()}
        texts.append({name: " ".join(f"w{i}" for i in rng.integers(0, words, size)) for name, size in plain.items()})
    return texts


def _sizes(shape: str, longest: int, rng: np.random.Generator) -> dict[str, int]:
    if shape not in SHAPES:
        return dict(zip(SIDES, map(int, shape.split("/")), strict=True))
    drawn = {name: int(median * np.exp(spread * rng.normal())) for name, (median, spread) in SHAPES[shape].items()}
    prompt = min(max(8, drawn["prompt"]), longest // 2)
    return {"prompt": prompt, **{side: min(max(8, drawn[side]), longest - prompt) for side in SIDES[1:]}}


def _words(size: int) -> Any:
    """A tokenizer of ``size`` words, specials among them."""
    words = [*SPECIALS, *(f"w{i}" for i in range(size - len(SPECIALS)))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=SPECIALS[0]))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


def operations(folder: Path, lora: int | None = None) -> float:
    """Floating-point operations of a pair that cannot be saved: 6 × weights × tokens (4 where they are frozen), and
    causal attention."""
    adapters = None if lora is None else adapters_of(lora)
    shape, total = Shape.of(AutoConfig.from_pretrained(folder / "model"), adapters), 0.0
    sizes = _sizes_of(folder)
    for prompt, *responses in sizes:
        cells = prompt**2 / 2 + sum(prompt * size + size**2 / 2 for size in responses)
        total += shape.flops(prompt + sum(responses), sum(responses), cells)
    return total / len(sizes)


def tokens(folder: Path) -> float:
    """Of a pair: its prompt once, and both responses."""
    sizes = _sizes_of(folder)
    return sum(map(sum, sizes)) / len(sizes)


def _sizes_of(folder: Path) -> list[list[int]]:
    return [[len(row[f"{name}_tokens"]) for name in SIDES] for row in json.loads((folder / "rows.json").read_text())]


def adapters_of(rank: int) -> LoraSettings:
    """Adapters of all linear layers."""
    return LoraSettings(rank=rank, alpha=2 * rank)
