"""A study over real preference data, cut to a hundred pairs; nothing of the data enters the project."""

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raydaa.results import TrialResults
from tests.command import Command
from tests.models import make_llama
from tests.studies import done, written

pytestmark = pytest.mark.slow

RULE = "def reward(prompt, response):\n    return len(set(response.split()))\n"


def cut(data: Path, folder: Path) -> Path:
    """The first conversations of HH-RLHF's harmless ones."""
    path = folder / "hh_harmless_test.parquet"
    pq.write_table(pq.read_table(data / "hh_harmless_test.parquet").slice(0, 140), path)
    return path


def study_tree(data: Path, folder: Path) -> dict[str, object]:
    """Chats to train on, a share of them held out; AlpacaEval's and ArenaHard's prompts to answer."""
    pairs = cut(data, folder)
    rows = pq.read_table(pairs, columns=["prompt", "chosen", "rejected"]).to_pylist()
    texts = [text for row in rows for text in (row["chosen"], row["rejected"], *(m["content"] for m in row["prompt"]))]
    asked = map(json.loads, (data / "alpaca_eval_prompts.jsonl").read_text().splitlines())
    prompts = folder / "prompts.jsonl"  # as published: without a split of its own
    prompts.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "split"}) + "\n" for row in asked))
    return {
        "name": "harmless",
        "model": {"source": str(make_llama(folder / "llama", texts, vocab_size=4096, hidden=128, layers=4))},
        "data": {
            "sft": {"source": "preferences.chosen"},
            "preferences": {"source": str(pairs), "validation": 0.1},
            "prompts": {"num": 8},
            "max_length": 1536,
        },
        "sft": {"learning_rate": 1.0e-3, "epochs": 1, "batch_size": 32},
        "training": {"batch_size": 16, "precision": "fp32", "tokens_per_microbatch": 4096},
        "search": {
            "learning_rate": [1.0e-4, 1.0e-3],
            "methods": [{"name": "dpo", "beta": [0.1]}],
            "early_stopping": {"rungs": [0.3]},
        },
        "generation": {"engine": "transformers", "max_new_tokens": 16},
        "evaluation": {
            "judge": {"kind": "rule", "function": "words:reward"},
            "benchmarks": [
                {
                    "name": "alpaca_eval",
                    "source": str(prompts),
                    "columns": {"prompt": "instruction", "response": "baseline_output"},
                    "difficulty": str(data / "lc_reference" / "instruction_difficulty.csv"),
                    "max_new_tokens": 8,
                },
                {
                    "name": "arena_hard",
                    "source": str(data / "arena_hard_questions.jsonl"),
                    "baseline": "sft",
                    "num": 40,
                    "max_new_tokens": 8,
                },
            ],
        },
    }


def test_a_study_over_real_chats_with_the_benchmarks_own_prompts(real_data: Path, tmp_path: Path) -> None:
    command = Command(tmp_path / "home")
    (command.folder / "words.py").write_text(RULE)
    study, folder = written(tmp_path, study_tree(real_data, tmp_path)), tmp_path / "out"
    done(command.run("run", str(study), "--output", str(folder), "--allow-code", timeout=800))
    assert command.wait_until_gone() == {}
    results = TrialResults.load(folder)
    assert sorted(row.state for row in results.rows) == ["finished", "stopped"]
    best = results.best("dpo")
    assert best.training.validation_accuracy is not None
    assert 0.3 < best.training.validation_accuracy < 0.95  # something was learned, and not everything
    assert best.kl is not None
    assert math.isfinite(best.kl)
    scores = best.benchmarks["alpaca_eval"]
    assert scores.win_rate is not None
    assert scores.win_rate.prompts == 805
    assert scores.win_rate.value < 5  # eight words against GPT-4's answers
    assert scores.length_controlled is not None
    assert scores.length_controlled.variant.startswith("with published difficulty")
    assert scores.length_controlled.prompts == 805
    arena = best.benchmarks["arena_hard"].win_rate
    assert arena is not None
    assert arena.prompts == 40
    assert "alpaca_eval (rule words:reward)" in (folder / "report" / "index.html").read_text()
