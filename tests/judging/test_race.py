"""A race of models before a judge that costs something: it is asked less, and the same again without being asked."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydaa.evaluation.racing import Race
from raydaa.judging.judge import Comparisons, JudgeResources, Rows, judge_of
from raydaa.settings.judge import OpenAIJudge
from raydaa.training.workers import Workers
from tests.judging.server import Body, Reply, completion, serving

pytest.importorskip("openai", reason="openai is not installed")

PROMPTS = 120
QUALITY = {"good": 0.8, "fair": 0.7, "bad": 0.2, "start": 0.5}


def by_number(body: Body) -> Reply:
    """The response with the higher number wins."""
    text = body["messages"][-1]["content"]
    first, second = (
        float(re.search(rf"<summary_{side}>\s*(\S+)", text).group(1))  # type: ignore[union-attr]
        for side in ("a", "b")
    )
    return Reply(completion(f"Comparison: by number.\nWinner: {'A' if first > second else 'B'}"))


def comparisons() -> Comparisons:
    generator = np.random.default_rng(0)
    prompts = [{"prompt_id": str(i), "question": f"what of {i}?"} for i in range(PROMPTS)]
    numbers = {name: generator.random(PROMPTS) < quality for name, quality in QUALITY.items()}
    # A winner's number is above the baseline's 0.5, a loser's below it.
    responses = {name: [f"{0.9 if won else 0.1} by {name}" for won in wins.tolist()] for name, wins in numbers.items()}
    return Comparisons(prompts, ["0.5"] * PROMPTS, responses)


def run(url: str, folder: Path, race: Race | None) -> dict[str, Rows]:
    settings = OpenAIJudge.model_validate({"kind": "openai", "model": "m", "base_url": url, "api_key_env": None})
    workers = Workers(1, 1, 0, None, threads=1, storage=str(folder / "ray"), max_failures=0, in_process=True)
    resources = JudgeResources(
        verdicts=folder / "verdicts",
        rewards=folder / "rewards",
        seed=0,
        precision="fp32",
        trust_remote_code=False,
        workers=workers,
        spending={},
        tell=lambda *_: None,
    )
    judge: Any = judge_of(settings.completed("tldr", 1))
    verdicts: dict[str, Rows] = judge.judge(comparisons(), resources, race)
    return verdicts


def race() -> Race:
    return Race(PROMPTS, {name: [name] for name in ("good", "fair", "bad")}, always=["start"])


def test_a_judge_is_asked_less_and_says_the_same(tmp_path: Path) -> None:
    with serving(lambda number, body: by_number(body)) as server:
        raced = run(server.url, tmp_path / "raced", race())
        asked = len(server.asked)
        assert run(server.url, tmp_path / "raced", race()) == raced
        assert len(server.asked) == asked  # all that a race asks for is kept
        whole = run(server.url, tmp_path / "whole", None)
        assert len(server.asked) - asked == len(QUALITY) * PROMPTS
    sizes = {name: len(rows) for name, rows in raced.items()}
    assert sizes["good"] == sizes["start"] == PROMPTS
    assert sizes["bad"] < PROMPTS
    assert asked == sum(sizes.values())
    for name, rows in raced.items():
        assert [row["outcome"] for row in rows] == [row["outcome"] for row in whole[name][: len(rows)]]
