"""A study judged on four benchmarks by four kinds of judges: what is asked, and what the report says of it."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raydaa.data.sources import prompt_of
from raydaa.errors import InputError
from raydaa.evaluation.figures import BenchmarkFigures
from raydaa.judging.cache import VerdictCache
from raydaa.judging.judge import JudgeError, JudgeUsage, judge_of
from raydaa.judging.language import Endpoint, Game, JudgeClient
from raydaa.judging.prompt import judge_prompt
from raydaa.pipeline.benchmark_figures import arena_of
from raydaa.results import TrialResults
from raydaa.settings.evaluation import BENCHMARKS
from raydaa.settings.judge import LanguageJudgeSettings, OpenAIJudge
from raydaa.store.tables import GENERATIONS, VERDICTS
from raydaa.study import Study
from tests.command import Command
from tests.judging.server import Body, Reply, completion, serving
from tests.judging.test_reward_model import write_reward_model
from tests.studies import done, micro, written

pytest.importorskip("openai", reason="openai is not installed")

QUESTIONS = [f"list the animals : cat {word} {other}" for word in ("fox", "pie", "red") for other in ("owl", "saw")]
RULE = "def reward(prompt, response):\n    return len(response)\n"


def judged(number: int, body: Body) -> Reply:
    """Prefers the first answer 3 to 1 (one token), by far (ArenaHard), or nobody (TL;DR)."""
    asked = body["messages"][-1]["content"]
    if "<assistant_a>" in asked:
        return Reply(completion("Mine is better.\n[[A>>B]]" if "saw" in asked else "[[A=B]]"))
    if "<summary_a>" in asked:
        return Reply(completion("Comparison: alike.\nWinner: C"))
    assert "<answer model=" in asked
    return Reply(completion("m", {"m": math.log(0.6), "M": math.log(0.2)}))


def files(folder: Path) -> dict[str, str]:
    """Prompts and baselines as AlpacaEval and ArenaHard publish them."""
    outputs = [{"instruction": q, "output": "sure , cat .", "generator": "baseline"} for q in QUESTIONS]
    questions = [{"question_id": f"q{i}", "turns": [{"content": q}]} for i, q in enumerate(QUESTIONS)]
    turns = [{"index": 0, "turns": [{"content": "cat", "token_len": 1}]}]
    said = [{"role": "user", "content": "?"}, {"role": "assistant", "content": {"answer": "cat"}}]
    layouts = [{"model_id": "baseline", "choices": turns}, {"model": "baseline", "messages": said}]  # old and new
    answers = [{["question_id", "uid"][i % 2]: f"q{i}", **layouts[i % 2]} for i in range(len(QUESTIONS))]
    found = {}
    for name, rows in (("outputs.json", outputs), ("questions.jsonl", questions), ("answers.jsonl", answers)):
        lines = json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
        (folder / name).write_text(lines)
        found[name.partition(".")[0]] = str(folder / name)
    return found


@pytest.mark.slow
def test_four_benchmarks(command: Command, undisturbed: tuple[Path, str], pocket_model: Path) -> None:
    folder, at = command.folder / "benchmarks", files(command.folder)
    shutil.copytree(undisturbed[0], folder)
    (command.folder / "lengths.py").write_text(RULE)
    rewards = write_reward_model(command.folder / "reward-model", pocket_model)
    difficulty = command.folder / "difficulty.csv"
    difficulty.write_text("index,instruction_difficulty\n" + "".join(f"{i},{i / 7}\n" for i in range(len(QUESTIONS))))
    with serving(judged) as server:
        asked = {"kind": "openai", "model": "gpt", "base_url": server.url, "api_key_env": None}
        asked |= {"price": {"input": 2.0, "output": 8.0}}
        evaluation = {
            "benchmarks": [
                {"name": "validation", "judge": {"kind": "rule", "function": "lengths:reward"}},
                {"name": "alpaca_eval", "source": at["outputs"], "difficulty": str(difficulty)},
                {"name": "arena_hard", "source": at["questions"], "baseline": at["answers"]},
                {"name": "tldr", "num": 10},
            ],
            "judge": asked,
            "second_judge": {"kind": "reward_model", "model": str(rewards)},
        }
        study = written(command.folder, micro(name="four", evaluation=evaluation))
        output = done(command.run("run", str(study), "--output", str(folder), "--allow-code"))
    assert "3 models against sft, validation (rule lengths:reward)" in output
    assert "3 models against chosen, alpaca_eval (judge gpt, prompt alpaca_eval v1)" in output
    assert "3 models against answers.jsonl, arena_hard (judge gpt, prompt arena_hard v1)" in output
    assert "3 models against chosen, tldr (judge gpt, prompt tldr v1)" in output
    results = TrialResults.load(folder)
    finished = [row for row in results if row.state == "finished"]
    assert len(finished) == 2
    for row in finished:
        check_validation(folder, row.benchmarks["validation"], results.models["sft"].benchmarks["validation"])
        # Three quarters for whoever stands first, in both orders: half for each, but where nobody was asked.
        alpaca, tldr = row.benchmarks["alpaca_eval"], row.benchmarks["tldr"]
        assert alpaca.win_rate is not None
        assert alpaca.win_rate.value == pytest.approx(50.0)
        assert alpaca.length_controlled is not None
        assert alpaca.length_controlled.variant.startswith("with published difficulty")
        check_arena(folder, row.benchmarks["arena_hard"])
        assert tldr.win_rate is not None
        assert (tldr.win_rate.ties, tldr.arena) == (100.0, None)
        assert row.figures == row.benchmarks["validation"]
    orders = [body for body in server.asked if "<summary_a>" in body["messages"][-1]["content"]]
    assert 0 < len(orders) <= 30  # one order of each
    assert all(body["temperature"] == 0 for body in server.asked)
    by_rule, *by_gpt = results.benchmarks
    assert (by_rule.sent, by_rule.cost) == (0, None)
    for benchmark in by_gpt:
        assert benchmark.sent > benchmark.written > 0
        assert benchmark.cost == pytest.approx((2 * benchmark.sent + 8 * benchmark.written) / 1e6)
    assert f"{sum(each.cost or 0 for each in by_gpt):.2f} for judging" in done(command.run("status", str(folder)))
    assert any("A second judge (reward model reward-model) says the same of" in note for note in results.notes)
    check_files(folder, finished[0].label)
    page = (folder / "report" / "index.html").read_text()
    assert page.count("arena_hard (judge gpt, prompt arena_hard v1)") >= 4
    assert "Win rates are of validation (rule lengths:reward)" in page
    assert page.count(" tokens were sent and ") == 3
    again = done(command.run("run", str(study), "--output", str(folder), "--allow-code"))  # the judge is gone by now
    kept = re.findall(r"\] (\w+) +kept from before", again)
    assert kept.count("judge") == len(results.benchmarks) + 1  # the second judge's as well
    assert "generate" in kept


def check_validation(folder: Path, mine: BenchmarkFigures, start: BenchmarkFigures) -> None:
    """The longer response wins; lengths and diversity are those of the responses."""
    texts = [GENERATIONS.read(folder / each.answers)["response"].to_pylist() for each in (mine, start)]
    outcomes = VERDICTS.read(folder / str(mine.verdicts))["outcome"].to_numpy()
    assert list(outcomes) == [0.5 + 0.5 * float(np.sign(len(a) - len(b))) for a, b in zip(*texts, strict=True)]
    assert mine.responses.mean_characters == pytest.approx(np.mean([len(text) for text in texts[0]]))
    words = [word for text in texts[0] for word in text.split()]
    # Of fewer words more are different ones.
    assert len(set(words)) / len(words) <= (mine.responses.distinct_1 or 0) + 1e-9 <= 1


def check_arena(folder: Path, mine: BenchmarkFigures) -> None:
    """Clear verdicts for whoever is A cancel out, with three times the weight."""
    rows = VERDICTS.read(folder / str(mine.verdicts)).to_pylist()
    weights = [row["first_weight"] for row in rows if row["first_weight"] is not None]
    assert set(weights) <= {1.0, 3.0}
    assert mine.arena is not None
    assert mine.arena.value == pytest.approx(50.0)
    assert mine.arena.games == 2 * len(QUESTIONS)


def check_files(folder: Path, label: str) -> None:
    """What AlpacaEval's and ArenaHard's own tools read."""
    names = {path.name for path in (folder / "outputs" / "alpaca_eval").iterdir()}
    assert "sft.json" in names
    assert len(names) == 3
    rows = json.loads((folder / "outputs" / "alpaca_eval" / "sft.json").read_text())
    assert [row["instruction"] for row in rows] == QUESTIONS
    assert {*rows[0]} == {"instruction", "output", "generator"}
    lines = (folder / "outputs" / "arena_hard" / "sft.jsonl").read_text().splitlines()
    answer = json.loads(lines[2])
    assert (answer["question_id"], answer["model_id"]) == ("q2", "sft")
    assert isinstance(answer["choices"][0]["turns"][0]["content"], str)


def test_benchmarks_have_their_own_settings() -> None:
    study = Study.from_tree(micro(evaluation={"judge": "rule", "benchmarks": ["validation", *list(BENCHMARKS)[1:]]}))
    settings = study.settings
    _, alpaca, arena, _ = settings.evaluation.benchmarks
    assert arena.sampling(settings.generation).temperature == 0.0
    assert alpaca.sampling(settings.generation).temperature == settings.generation.temperature
    assert arena.sampling(settings.generation).max_new_tokens == settings.generation.max_new_tokens
    language = OpenAIJudge(kind="openai", model="gpt-4o")
    judges = [b.judged_by(language) for b in settings.evaluation.benchmarks]
    asked = [(judge.prompt, judge.orders) for judge in judges if isinstance(judge, LanguageJudgeSettings)]
    assert asked == [("alpaca_eval", 2), ("alpaca_eval", 2), ("arena_hard", 2), ("tldr", 1)]
    assert settings.evaluation.baseline_of(settings.evaluation.benchmarks[0]) == "sft"
    assert judge_of(alpaca.judged_by(language)).title == "judge gpt-4o, prompt alpaca_eval v1"


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"benchmarks": ["alpaca"]}, "evaluation.benchmarks[0].name: 'alpaca'"),
        ({"benchmarks": ["tldr", "tldr"]}, "names a benchmark twice"),
        ({"benchmarks": [{"name": "validation", "num": 3}]}, "validation's prompts are data.prompts; write num there"),
        ({"judge": {"kind": "served"}}, "evaluation.judge.model: name the judge, a folder or a hub id"),
        ({"judge": {"kind": "rule", "orders": 2}}, "evaluation.judge.orders: unknown key; choose from function, kind"),
        ({"judge": {"model": "a"}}, "evaluation.judge.kind: is missing"),
        ({"judge": "open"}, "judge.kind: 'open': choose from none, rule, reward_model, openai, served"),
        ({"judge": {"kind": "openai", "model": "a", "price": {"input": -1}}}, "evaluation.judge.price.input: -1: "),
        ({"judge": {"kind": "rule", "function": "a:b"}}, "'a:b' is code of your own; add --allow-code to run it"),
        ({"benchmarks": [{"name": ["a"]}]}, "evaluation.benchmarks[0].name"),
        ({"lm_eval": {"tasks": ["a"], "include_path": "x"}}, "tasks of your own may run code; add --allow-code"),
        ({"second_judge": "rule"}, "evaluation.second_judge: needs another judge of the first benchmark to agree with"),
    ],
)
def test_what_cannot_be_judged_is_said(evaluation: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        Study.from_tree(micro(evaluation=evaluation))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


ANOTHER = {
    "model": "other",
    "base_url": "http://other.example/v1",
    "api_key_env": "OTHER_KEY",
    "prompt": "tldr",
    "orders": 1,
    "max_requests": 7,
    "max_tokens": 7,
    "price": {"input": 1.0, "output": 2.0},
    "parameters": {"seed": 1},
}


@pytest.mark.parametrize("name", sorted(set(OpenAIJudge.model_fields) - {"kind"}))
def test_a_verdict_depends_on_every_setting_but_those_that_say_otherwise(name: str) -> None:
    """A setting that nobody has thought of asks again: an old verdict is never taken for it."""
    tree = {"kind": "openai", "model": "gpt", "prompt": "alpaca_eval", "orders": 2}
    plain = OpenAIJudge.model_validate(tree)
    other = OpenAIJudge.model_validate({**tree, name: ANOTHER.get(name) or 2 * getattr(plain, name)})
    differ = judge_of(plain).identity() != judge_of(other).identity()
    assert differ == (name not in OpenAIJudge.not_in_keys)


def test_games_that_nobody_was_asked_for_are_ties() -> None:
    """One order each: a clear win, a tie, and equal responses."""
    nobody = dict.fromkeys([f"{order}{what}" for order in ("first", "second") for what in ("", "_weight")])
    rows = [
        {**nobody, "prompt_id": "a", "outcome": 1.0, "first": 1.0, "first_weight": 3.0},
        {**nobody, "prompt_id": "b", "outcome": 0.5, "second": 0.5, "second_weight": 1.0},
        {**nobody, "prompt_id": "c", "outcome": 0.5},
        {**nobody, "prompt_id": "d", "outcome": None, "first_weight": 0.0},
    ]
    score = arena_of(pa.Table.from_pylist(rows, schema=VERDICTS.schema), orders=1, draws=100)
    assert score.value == pytest.approx(100 * (3 + 0.5 + 0.5) / 5)
    assert (score.games, score.unparsable) == (3, 1)


def test_several_benchmarks_have_one_budget(tmp_path: Path) -> None:
    spent, games = JudgeUsage(), [Game(f"question {i}", "a", "bb") for i in range(6)]
    with serving(lambda number, body: Reply(completion("Winner: A"))) as server:
        endpoint = Endpoint("judge", server.url, api_key_env=None, concurrency=1, max_requests=8)
        asked = [JudgeClient(endpoint, judge_prompt(n), VerdictCache(tmp_path), spent) for n in ("tldr", "arena_hard")]
        asked[0].rule(games)
        with pytest.raises(JudgeError, match="max_requests: 8 are used up"):
            asked[1].rule(games)
        assert len(server.asked) == 8


def test_arena_hards_questions_are_read() -> None:
    asked = prompt_of({"turns": [{"content": "why?"}], "question_id": "q"}, "prompt")
    assert asked.messages == [{"role": "user", "content": "why?"}]
