"""Studies over real preference data, with a small Llama and a tokenizer made from that data."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.models import make_llama

METHODS = [
    {"name": "dpo", "beta": [0.1]},
    {"name": "ipo", "beta": [0.05]},
    {"name": "simpo", "beta": [1.0]},
    {"name": "orpo", "beta": [0.5]},
]


def alpaca(data: Path, work: Path, fraction: float) -> dict[str, Any]:
    """Plain-text prompts, splits named in a column."""
    source = data / "alpaca_gpt4_pairs.parquet"
    table = pq.read_table(source, columns=["prompt", "chosen", "rejected"])
    texts = (text for row in table.slice(0, 3000).to_pylist() for text in row.values())
    model = make_llama(work / "alpaca-llama", texts, vocab_size=4096, hidden=128, layers=4)
    preferences = {"source": str(source), "train": "train", "validation": "validation", "fraction": fraction}
    return _study("alpaca", model, preferences, 384)


def harmless(data: Path, work: Path, fraction: float) -> dict[str, Any]:
    """Chat-message prompts, a share of the prompts held out."""
    source = data / "hh_harmless_test.parquet"
    rows = pq.read_table(source, columns=["prompt", "chosen", "rejected"]).to_pylist()
    texts = [text for row in rows for text in (row["chosen"], row["rejected"], *(m["content"] for m in row["prompt"]))]
    model = make_llama(work / "hh-llama", texts, vocab_size=4096, hidden=128, layers=4)
    return _study("harmless", model, {"source": str(source), "validation": 0.1, "fraction": fraction}, 512)


def _study(name: str, model: Path, preferences: dict[str, Any], max_length: int) -> dict[str, Any]:
    return {
        "name": name,
        "model": {"source": str(model)},
        "data": {
            "sft": {"source": "preferences.chosen"},
            "preferences": preferences,
            "prompts": {"num": 32},
            "max_length": max_length,
        },
        "sft": {"learning_rate": 1.0e-3, "epochs": 1, "batch_size": 32, "fractions": [preferences["fraction"]]},
        "training": {"batch_size": 16, "precision": "fp32", "tokens_per_microbatch": 4096},
        "search": {"learning_rate": [1.0e-4, 3.0e-4], "methods": METHODS, "early_stopping": {"rungs": [0.3]}},
        "generation": {"engine": "transformers", "max_new_tokens": 48},
        "evaluation": {"judge": "none"},
    }
