"""What a study serves itself, by vLLM on its own Ray: its judge, and its best model to the LM Evaluation Harness."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raydaa.data.packing import ResponseTable
from raydaa.generation.serving import available
from raydaa.judging.cache import VerdictCache
from raydaa.results import TrialResults
from raydaa.store.artifacts import key_of, model_hash, tokenizer_hash
from raydaa.training.model import Policy, load_model
from raydaa.training.reference import score
from raydaa.training.tokenizer import load_tokenizer
from tests.command import Command
from tests.models import save_llama
from tests.studies import done, micro, written

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not available(), reason="vLLM is not installed"),
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm_eval is not installed"),
]
pytest.importorskip("openai", reason="openai is not installed")

WORDS = ["<unk>", "<bos>", "<eos>", "m", "M"]
ANIMALS = ["cat", "pie", "fox", "red", "owl", "saw"]
ROWS = [
    {"question": f"list the animals : {a} {b} =>", "choices": [f"sure , {a} .", f"sure , {b} ."], "answer": i % 2}
    for i, (a, b) in enumerate((a, b) for a in ANIMALS for b in ANIMALS if a != b)
]
TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def write_judge(folder: Path) -> Path:
    """A random Llama that knows two words: both are always among the five likeliest tokens."""
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<unk>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return save_llama(folder, len(WORDS), hidden=64, layers=2)


def write_task(folder: Path) -> Path:
    """A choice of two continuations."""
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    task = {
        "task": "pocket_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "pocket_choice.yaml").write_text(yaml.safe_dump(task))
    return folder


def accuracy(model: Path) -> float:
    """The same by the training scorer."""
    tokenizer, policy, right = load_tokenizer(model), Policy(load_model(model)), 0
    for row in ROWS:
        prompt, *answers = (
            tokenizer(text, add_special_tokens=False).input_ids for text in (row["question"], *row["choices"])
        )
        table = ResponseTable([prompt] * len(answers), answers)
        right += int(np.argmax(score(policy, table, np.arange(len(answers)), 256)[:, 0])) == row["answer"]
    return right / len(ROWS)


def test_a_served_judge_and_a_served_model(command: Command, undisturbed: tuple[Path, str]) -> None:
    folder, judge = command.folder / "served", write_judge(command.folder / "own-judge")
    shutil.copytree(undisturbed[0], folder)
    tasks = {"tasks": ["pocket_choice"], "include_path": str(write_task(command.folder / "tasks"))}
    evaluation = {"judge": {"kind": "served", "model": str(judge)}, "models": [], "lm_eval": tasks}
    tree = micro(name="served", evaluation=evaluation)
    tree["search"]["methods"] = tree["search"]["methods"][:1]  # every model is a start of vLLM
    arguments = ("run", str(written(command.folder, tree)), "--output", str(folder), "--allow-code")
    output = done(command.run(*arguments))
    assert "2 models against sft, validation (judge own-judge, prompt alpaca_eval v1)" in output
    assert "harness   1 models asked" in output
    cache = check_verdicts(command.folder, folder, judge)
    check_harness(folder)
    exported = command.folder / "verdicts.parquet"
    told = done(command.run("verdicts", str(exported), "--cache", str(command.folder / "cache" / "raydaa")))
    assert told == f"{exported}: {len(cache.rulings)} verdicts\n"


def check_verdicts(home: Path, folder: Path, judge: Path) -> VerdictCache:
    """The judge is known by its weights: where it listened does not matter."""
    (row,) = (row for row in TrialResults.load(folder) if row.state == "finished")
    assert row.win_rate is not None
    assert 0 < row.win_rate < 100
    cache = VerdictCache(home / "cache" / "raydaa" / "verdicts")
    identity = key_of(weights=model_hash(judge), tokenizer=tokenizer_hash(judge))
    mine = [each for each in cache.rulings.values() if each.judge == f"own-judge {identity}"]
    assert mine
    assert all(ruling.outcome is not None and 0 < ruling.outcome < 1 for ruling in mine)
    return cache


def check_harness(folder: Path) -> None:
    """The harness and the training scorer find the same accuracy, and the report shows it."""
    found = TrialResults.load(folder).harness["dpo"]["pocket_choice"]["acc"]
    assert found.value == pytest.approx(accuracy(folder / "best" / "dpo"))
    assert found.standard_error is not None
    assert found.standard_error > 0
    page = (folder / "report" / "index.html").read_text()
    assert "LM Evaluation Harness" in page
    assert "pocket_choice" in page
