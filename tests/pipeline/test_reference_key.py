"""What makes reference log-probabilities be computed again, and what does not."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raydaa.cluster import Resources
from raydaa.pipeline.context import Context
from raydaa.pipeline.prepared import base_ref, prepared_data
from raydaa.pipeline.run import run_first
from raydaa.pipeline.stages.reference import depends_on
from raydaa.pocket import world as pocket
from raydaa.progress import Progress
from raydaa.store.artifacts import key_of
from raydaa.study import Study
from raydaa.training.model import load_model
from raydaa.training.tokenizer import load_tokenizer
from tests.studies import micro


def tree(folder: Path) -> dict[str, Any]:
    """A study over a model folder and a file of pairs, both of which can be changed."""
    data = {"sft": {"source": "preferences.chosen"}, "max_length": 48, "prompts": {"num": 4}}
    preferences = {"source": str(folder / "pairs.jsonl"), "validation": 0.3}
    made = micro(model={"source": str(folder / "model")}, evaluation={"judge": "none"})
    return {**made, "data": {**data, "preferences": preferences}}


@pytest.fixture
def world(tmp_path: Path, pocket_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(pocket_model, tmp_path / "model")
    words = pocket.CATEGORIES["animals"]
    rows = [{"prompt": f"list : {one}", "chosen": f"{one} and dog", "rejected": "dog"} for one in words]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def key_in(study: Study, precision: str = "fp32") -> str:
    """By what the study's preparation leaves."""
    context = Context(study, Progress(os.open(os.devnull, os.O_WRONLY)), lambda: Resources(1, 0, local=True))
    run_first(context)
    return key_of(**depends_on(context.once(base_ref), context.once(prepared_data), precision))


def key(folder: Path, study: dict[str, Any], precision: str = "fp32") -> str:
    return key_in(Study.from_tree(study, {"storage.study": str(folder / "study")}), precision)


def weights(folder: Path) -> None:
    model = load_model(folder / "model")
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-3
    model.save_pretrained(folder / "model")


def tokenizer(folder: Path) -> None:
    made = load_tokenizer(folder / "model")
    made.add_tokens(["catdog"])
    made.save_pretrained(folder / "model")


def template(folder: Path) -> None:
    made = load_tokenizer(folder / "model")
    made.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    made.save_pretrained(folder / "model")


def data(folder: Path) -> None:
    path = folder / "pairs.jsonl"
    path.write_text(path.read_text().replace("cat and dog", "cat and cat"))


@pytest.mark.parametrize("change", [weights, tokenizer, template, data])
def test_changed_files_give_a_new_key(world: Path, change: Callable[[Path], None]) -> None:
    before = key(world, tree(world))
    assert key(world, tree(world)) == before
    change(world)
    assert key(world, tree(world)) != before


def test_changed_truncation_or_precision_gives_a_new_key(world: Path) -> None:
    study = tree(world)
    before = key(world, study)
    assert key(world, study, "bf16") != before
    study["data"]["max_length"] = 20
    assert key(world, study) != before


def test_what_differs_between_trials_gives_the_same(world: Path) -> None:
    study = tree(world)
    before = key(world, study)
    study["name"] = "another"
    study["training"] = {**study["training"], "batch_size": 8, "tokens_per_microbatch": 999}
    study["search"] = {"learning_rate": [1e-5], "seeds": [3], "methods": [{"name": "ipo", "beta": [0.7]}]}
    made = Study.from_tree(study, {"storage.study": str(world / "elsewhere")})
    assert key_in(made) == before
