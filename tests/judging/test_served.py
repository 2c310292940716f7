"""A judge that the study serves itself, by vLLM on its own Ray."""

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raydaa.artifacts import model_hash
from raydaa.generation.serving import available
from raydaa.judging.cache import VerdictCache
from raydaa.results import TrialResults
from tests.command import Command
from tests.models import save_llama
from tests.studies import done, micro, written

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not available(), reason="vLLM is not installed"),
]
pytest.importorskip("openai", reason="openai is not installed")

WORDS = ["<unk>", "<bos>", "<eos>", "m", "M"]
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


def test_the_studys_own_ray_serves_the_judge(command: Command, undisturbed: tuple[Path, str]) -> None:
    folder, judge = command.folder / "served", write_judge(command.folder / "own-judge")
    shutil.copytree(undisturbed[0], folder)
    evaluation = {"judge": {"kind": "served", "model": str(judge)}}
    study = written(command.folder, micro(name="served", evaluation=evaluation))
    arguments = ("run", str(study), "--output", str(folder))
    output = done(command.run(*arguments))
    assert "3 models against sft, validation (judge own-judge, prompt alpaca_eval v1)" in output
    results = TrialResults.load(folder)
    for row in results:
        if row.state == "finished":
            assert row.win_rate is not None
            assert 0 < row.win_rate < 100
    cache = VerdictCache(command.folder / "cache" / "raydaa" / "verdicts")
    mine = [each for each in cache.rulings.values() if each.judge == f"own-judge {model_hash(judge)}"]
    assert mine
    assert all(ruling.outcome is not None and 0 < ruling.outcome < 1 for ruling in mine)
    shutil.rmtree(folder / "verdicts")
    again = command.run(*arguments)  # every verdict is in the cache: no engine is started
    assert "120 verdicts (0s)" in done(again)
    exported = command.folder / "verdicts.parquet"
    told = done(command.run("verdicts", str(exported), "--cache", str(command.folder / "cache" / "raydaa")))
    assert told == f"{exported}: {len(cache.rulings)} verdicts\n"
