"""What the training benchmarks train: random Llamas on the spot, and pairs that are real or drawn to a shape."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
}
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
    texts = _real(options) if options.data else _drawn(options, size - len(SPECIALS))
    tokenizer = _tokenizer(texts, options, size)
    tokenizer.save_pretrained(folder / "model")
    save_llama(folder / "model", **MODELS[options.model], positions=max(2048, options.max_length))
    eos, rows = tokenizer.eos_token_id, []
    for number, text in enumerate(texts):
        prompt = tokenizer(text["prompt"])["input_ids"]
        sides = [[*tokenizer(text[side])["input_ids"], eos] for side in SIDES[1:]]
        room = options.max_length - len(prompt)
        chosen, rejected = (side[:room] for side in sides)
        rows.append({"pair_id": number, "prompt_tokens": prompt, "chosen_tokens": chosen, "rejected_tokens": rejected})
    (folder / "texts.json").write_text(json.dumps(texts))
    (folder / "rows.json").write_text(json.dumps(rows))


def _real(options: argparse.Namespace) -> list[dict[str, str]]:
    import pyarrow.parquet as pq

    table = pq.read_table(options.data, columns=[*SIDES, "split"]).to_pylist()
    rows = [row for row in table if row["split"] == "train" and len(row["prompt"]) < options.max_length]
    return [{name: row[name] for name in SIDES} for row in rows[: options.pairs]]


def _drawn(options: argparse.Namespace, words: int) -> list[dict[str, str]]:
    """Texts of words that are a token each; a response's end token counts."""
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(options.pairs):
        sizes = _sizes(options.shape, options.max_length, rng)
        plain = {name: size - (name != "prompt") for name, size in sizes.items()}
        texts.append({name: " ".join(f"w{i}" for i in rng.integers(0, words, size)) for name, size in plain.items()})
    return texts


def _sizes(shape: str, longest: int, rng: np.random.Generator) -> dict[str, int]:
    if shape not in SHAPES:
        return dict(zip(SIDES, map(int, shape.split("/")), strict=True))
    drawn = {name: int(median * np.exp(spread * rng.normal())) for name, (median, spread) in SHAPES[shape].items()}
    prompt = min(max(8, drawn["prompt"]), longest // 2)
    return {"prompt": prompt, **{side: min(max(8, drawn[side]), longest - prompt) for side in SIDES[1:]}}


def _tokenizer(texts: Sequence[dict[str, str]], options: argparse.Namespace, size: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if options.data:
        return make_tokenizer((value for text in texts for value in text.values()), size)
    words = [*SPECIALS, *(f"w{i}" for i in range(size - len(SPECIALS)))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=SPECIALS[0]))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


def needed_flops(folder: Path) -> float:
    """Floating-point operations of a pair that cannot be saved: 6 × weights × tokens, and causal attention."""
    from transformers import AutoConfig

    from raydaa.training.memory import Shape

    shape, total = Shape.of(AutoConfig.from_pretrained(folder / "model")), 0.0
    rows = json.loads((folder / "rows.json").read_text())
    for row in rows:
        prompt, *responses = (len(row[f"{name}_tokens"]) for name in SIDES)
        cells = prompt**2 / 2 + sum(prompt * size + size**2 / 2 for size in responses)
        total += shape.flops(prompt + sum(responses), sum(responses), cells)
    return total / len(rows)
