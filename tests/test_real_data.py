"""Studies over real preference data, cut to a few hundred pairs; nothing of the data enters the project."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from raydaa.results import TrialResults
from raydaa.trial_row import TrialRow
from tests.command import Command
from tests.real_studies import METHODS, alpaca, harmless
from tests.studies import written

pytestmark = pytest.mark.slow


def cut(data: Path, folder: Path) -> Path:
    """The first rows of both data sets, with every split in them."""
    folder.mkdir()
    table = pq.read_table(data / "alpaca_gpt4_pairs.parquet")
    parts = [
        table.filter(pc.equal(table["split"], name)).slice(0, n) for name, n in (("train", 64), ("validation", 16))
    ]
    pq.write_table(pa.concat_tables(parts), folder / "alpaca_gpt4_pairs.parquet")
    pq.write_table(pq.read_table(data / "hh_harmless_test.parquet").slice(0, 140), folder / "hh_harmless_test.parquet")
    return folder


def check(row: TrialRow) -> None:
    """It learned something, and not everything."""
    assert row.validation_accuracy is not None
    assert 0.3 < row.validation_accuracy < 0.95
    assert row.kl is not None
    assert math.isfinite(row.kl)


def test_a_study_over_real_chats(real_data: Path, tmp_path: Path) -> None:
    tree = harmless(cut(real_data, tmp_path / "data"), tmp_path, 1.0)
    tree["data"] |= {"max_length": 192, "max_rejected_share": 0.3, "prompts": {"num": 8}}
    tree["search"]["methods"] = METHODS[::2]
    tree["generation"]["max_new_tokens"] = 16
    command = Command(tmp_path / "home")
    result = command.run("run", str(written(tmp_path, tree)), "--output", str(tmp_path / "out"), timeout=800)
    assert result.returncode == 0, result.stdout + result.stderr
    assert command.wait_until_gone() == {}
    assert (tmp_path / "out" / "report" / "index.html").exists()
    rows = TrialResults.load(tmp_path / "out").rows
    finished = [row for row in rows if row.state == "finished"]
    assert {row.method for row in finished} == {method["name"] for method in METHODS[::2]}
    for row in finished:
        assert row.win_rate is None
        check(row)


def test_the_benchmarks_own_prompts(real_data: Path, tmp_path: Path) -> None:
    """Over real pairs, AlpacaEval's 805 prompts with its baseline's answers, and questions of ArenaHard, by a rule of
    one's own."""
    tree = alpaca(cut(real_data, tmp_path / "data"), tmp_path, 1.0)
    tree["data"] |= {"max_length": 1536}
    rows = map(json.loads, (real_data / "alpaca_eval_prompts.jsonl").read_text().splitlines())
    prompts = tmp_path / "prompts.jsonl"  # as published: without a split of its own
    prompts.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "split"}) + "\n" for row in rows))
    tree["search"] |= {"learning_rate": [1.0e-3], "methods": METHODS[:1]}
    tree["evaluation"] = {
        "judge": {"kind": "rule", "function": "words:reward"},
        "benchmarks": [
            {
                "name": "alpaca_eval",
                "source": str(prompts),
                "columns": {"prompt": "instruction", "response": "baseline_output"},
                "difficulty": str(real_data / "lc_reference" / "instruction_difficulty.csv"),
                "max_new_tokens": 8,
            },
            {
                "name": "arena_hard",
                "source": str(real_data / "arena_hard_questions.jsonl"),
                "baseline": "sft",
                "num": 40,
                "max_new_tokens": 8,
            },
        ],
    }
    command = Command(tmp_path / "home")
    (command.folder / "words.py").write_text("def reward(prompt, response):\n    return len(set(response.split()))\n")
    study, folder = written(tmp_path, tree), tmp_path / "out"
    result = command.run("run", str(study), "--output", str(folder), "--allow-code", timeout=800)
    assert result.returncode == 0, result.stdout + result.stderr
    assert command.wait_until_gone() == {}
    best = TrialResults.load(folder).best("dpo")
    check(best)
    scores = best.benchmarks["alpaca_eval"]
    assert scores["win_rate"]["prompts"] == 805
    assert scores["win_rate"]["value"] < 5  # eight words against GPT-4's answers
    assert scores["length_controlled"]["variant"].startswith("with published difficulty")
    assert scores["length_controlled"]["prompts"] == 805
    assert best.benchmarks["arena_hard"]["win_rate"]["prompts"] == 40
    assert "alpaca_eval (rule words:reward)" in (folder / "report" / "index.html").read_text()
