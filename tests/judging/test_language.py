"""A language model as the judge, good ones and bad ones; nothing is lost, paid for twice or counted wrong."""

import logging
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydaa.evaluation.reliability import kappa, reliability
from raydaa.judging import language
from raydaa.judging.cache import VerdictCache
from raydaa.judging.judge import JudgeError
from raydaa.judging.language import Endpoint, Game, JudgeClient
from raydaa.judging.prompt import Answer, judge_prompt
from tests.judging.server import Body, Reply, completion, serving

pytest.importorskip("openai", reason="openai is not installed")

KEY = "sk-a-key-that-nobody-may-see"
GAMES = [Game(f"question {i}", "x" * (i % 7), "x" * (i % 5)) for i in range(40)]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDAA_TEST_JUDGE", KEY)
    monkeypatch.setattr(language, "PAUSE_SECONDS", 0.01)


def judge(url: str, folder: Path, prompt: str = "tldr", **options: Any) -> JudgeClient:
    endpoint = Endpoint(model="judge", base_url=url, api_key_env="RAYDAA_TEST_JUDGE", **{"patience": 5.0, **options})
    return JudgeClient(endpoint, judge_prompt(prompt), VerdictCache(folder))


def longer(body: Body) -> str:
    """The winner by length, read from what was asked."""
    text = body["messages"][-1]["content"]
    a, b = (re.search(rf"<(?:summary|assistant)_{side}>\n(.*?)\n</", text, re.DOTALL) for side in "ab")
    assert a is not None
    assert b is not None
    sizes = len(a[1].strip()), len(b[1].strip())
    return "C" if sizes[0] == sizes[1] else "AB"[sizes[0] < sizes[1]]


def said(body: Body) -> Reply:
    return Reply(completion(f"Comparison: one is longer.\nWinner: {longer(body)}"))


def expected(game: Game) -> float:
    return 0.5 + 0.5 * float(np.sign(len(game.first) - len(game.second)))


def test_every_game_has_its_ruling_and_none_is_paid_for_twice(tmp_path: Path) -> None:
    with serving(lambda number, body: said(body)) as server:
        rulings = judge(server.url, tmp_path).rule(GAMES)
        assert [ruling.outcome for ruling in rulings] == [expected(game) for game in GAMES]
        assert len(server.asked) == len(GAMES)
        again = judge(server.url, tmp_path)
        assert again.rule(list(reversed(GAMES))) == list(reversed(rulings))
        assert len(server.asked) == len(GAMES)
        assert again.spent.requests == 0
        judge(server.url, tmp_path, prompt="arena_hard").rule(GAMES[:1])  # asked otherwise it is another verdict
        assert len(server.asked) > len(GAMES)
    VerdictCache(tmp_path).export(tmp_path / "out" / "all.parquet")
    assert (tmp_path / "out" / "all.parquet").exists()


def test_one_token_is_a_preference(tmp_path: Path) -> None:
    likeliest = {"m": math.log(0.6), "M": math.log(0.2), "The": math.log(0.1)}
    with serving(lambda number, body: Reply(completion("m", likeliest))) as server:
        ruling = judge(server.url, tmp_path, prompt="alpaca_eval").rule(GAMES[:1])[0]
        assert ruling.outcome == pytest.approx(0.75)
        assert server.asked[0]["max_tokens"] == 1
        assert server.asked[0]["logprobs"] is True
    asked = judge_prompt("alpaca_eval")
    assert asked.read(Answer("m", [("m", -0.1), ("x", -3.0)])).outcome == 1.0  # type: ignore[union-attr]
    assert asked.read(Answer("x", [("x", -0.1)])) is None


FAULTS = [
    Reply({"error": {"message": "slow down"}}, 429, {"Retry-After": "0.01"}),
    Reply({"error": {"message": "oh"}}, 500, {"Retry-After": "0.01"}),
    Reply('{"id": "chatcmpl-1", "choi'),
    Reply("<html>a proxy says hello</html>", headers={"Content-Type": "text/html"}),
    Reply({"id": "chatcmpl-1", "object": "chat.completion", "choices": []}),
    Reply("", drop=True),
]


def test_faults_lose_nothing_and_count_nothing_wrong(tmp_path: Path) -> None:
    """Every third answer is one of six faults."""

    def answer(number: int, body: Body) -> Reply:
        return FAULTS[number // 3 % len(FAULTS)] if number % 3 == 0 else said(body)

    with serving(answer) as server:
        rulings = judge(server.url, tmp_path, concurrency=4).rule(GAMES)
    assert [ruling.outcome for ruling in rulings] == [expected(game) for game in GAMES]


def test_a_judge_that_does_not_answer_in_time_is_asked_again(tmp_path: Path) -> None:
    import time

    def answer(number: int, body: Body) -> Reply:
        time.sleep(1.0 if number == 0 else 0)
        return said(body)

    with serving(answer) as server:
        rulings = judge(server.url, tmp_path, timeout=0.5, concurrency=1).rule(GAMES[:2])
    assert [ruling.outcome for ruling in rulings] == [expected(game) for game in GAMES[:2]]


def test_what_cannot_be_read_is_asked_for_once_more_and_then_left_out(tmp_path: Path) -> None:
    with serving(lambda number, body: Reply(completion("I like both."))) as server:
        asked = judge(server.url, tmp_path)
        assert [ruling.outcome for ruling in asked.rule(GAMES[:3])] == [None] * 3
        assert len(server.asked) == 6
        assert judge(server.url, tmp_path).rule(GAMES[:3])[0].text == "I like both."
        assert len(server.asked) == 6


def test_a_judge_that_dies_ends_the_stage_and_the_next_run_goes_on(tmp_path: Path) -> None:
    silence = pytest.raises(JudgeError, match=r"judge at http://127.0.0.1:\d+/v1 gave no answer for \d+ s")
    with serving(lambda number, body: said(body) if number < 10 else Reply("", drop=True)) as server, silence:
        judge(server.url, tmp_path, concurrency=2, patience=0.5).rule(GAMES)
    assert len(VerdictCache(tmp_path).rulings) == 10
    with serving(lambda number, body: said(body), server.port) as server:
        rulings = judge(server.url, tmp_path).rule(GAMES)
        assert len(server.asked) == len(GAMES) - 10
    assert [ruling.outcome for ruling in rulings] == [expected(game) for game in GAMES]


def test_one_game_that_is_refused_or_never_answered_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too long for the judge, or an answer that fails every time: the others are judged."""
    monkeypatch.setattr(language, "ROUNDS", 2)
    bad = {
        "question 3\n": Reply({"error": {"message": "too long"}}, 400),
        "question 5\n": Reply({"error": {"message": "oh"}}, 500, {"Retry-After": "0.01"}),
    }

    def answer(number: int, body: Body) -> Reply:
        asked = body["messages"][-1]["content"]
        return next((reply for question, reply in bad.items() if question in asked), said(body))

    with serving(answer) as server:
        rulings = judge(server.url, tmp_path, concurrency=2).rule(GAMES)
    assert [i for i, ruling in enumerate(rulings) if ruling.outcome is None] == [3, 5]
    assert rulings[3].text == "refused with status 400: too long"
    assert rulings[5].text == "no answer (status 500: oh)"
    kept = [i for i in range(len(GAMES)) if i not in (3, 5)]
    assert [rulings[i].outcome for i in kept] == [expected(GAMES[i]) for i in kept]


def test_half_a_character_is_no_reason_to_lose_what_was_paid_for(tmp_path: Path) -> None:
    with serving(lambda number, body: Reply(completion("Winner: A \ud83d"))) as server:
        assert judge(server.url, tmp_path).rule(GAMES[:2])[0].outcome == 1.0
    assert len(VerdictCache(tmp_path).rulings) == 2


def test_an_endpoint_without_log_probabilities_is_told_at_once(tmp_path: Path) -> None:
    with (
        serving(lambda number, body: Reply(completion("m"))) as server,
        pytest.raises(JudgeError, match="gives no log-probabilities; use prompt arena_hard or tldr"),
    ):
        judge(server.url, tmp_path, prompt="alpaca_eval").rule(GAMES)
    assert VerdictCache(tmp_path).rulings == {}


def test_keys_are_told_to_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    refused = Reply({"error": {"message": f"wrong key {KEY}"}}, 401)
    with (
        serving(lambda number, body: said(body) if number < 5 else refused) as server,
        pytest.raises(JudgeError, match=r"refused with status 401: wrong key …$") as error,
    ):
        judge(server.url, tmp_path, concurrency=1).rule(GAMES)
    assert KEY not in str(error.value)
    assert KEY not in caplog.text
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    endpoint = Endpoint(model="judge", base_url=server.url, api_key_env="RAYDAA_NO_SUCH_KEY")
    with pytest.raises(JudgeError, match="the environment variable RAYDAA_NO_SUCH_KEY is not set, or empty"):
        JudgeClient(endpoint, judge_prompt("tldr"), VerdictCache(tmp_path)).rule(GAMES)


@pytest.mark.parametrize(("limit", "most"), [({"max_requests": 7}, 7), ({"max_tokens": 60}, 5)])
def test_a_budget_ends_the_stage_and_a_larger_one_goes_on(tmp_path: Path, limit: dict[str, int], most: int) -> None:
    with serving(lambda number, body: said(body)) as server:
        with pytest.raises(JudgeError, match="are used up"):
            judge(server.url, tmp_path, concurrency=1, **limit).rule(GAMES)
        assert len(server.asked) == most
        judge(server.url, tmp_path).rule(GAMES)
        assert len(server.asked) == len(GAMES)


def test_a_damaged_file_of_the_cache_is_not_used(tmp_path: Path) -> None:
    with serving(lambda number, body: said(body)) as server:
        judge(server.url, tmp_path).rule(GAMES[:4])
        next(tmp_path.glob("*.parquet")).write_bytes(b"PAR1 half a file")
        judge(server.url, tmp_path).rule(GAMES[:4])
        assert len(server.asked) == 8


def test_a_judge_that_always_says_the_first_is_found_out() -> None:
    prompts = np.array([f"p{i}" for i in range(300)])
    found = reliability(prompts[:50], np.ones(50), np.zeros(50))
    assert found is not None
    assert (found.first_favoured, found.consistent, found.biased) == (100.0, 0.0, True)
    draw = np.random.default_rng(0)
    truth = (draw.random(300) < 0.6).astype(float)
    fair = reliability(prompts, truth, np.where(draw.random(300) < 0.1, 1 - truth, truth))
    assert fair is not None
    assert not fair.biased
    assert fair.consistent == pytest.approx(90, abs=4)
    assert reliability(prompts[:3], np.full(3, np.nan), np.ones(3)) is None


def test_many_models_on_few_prompts_make_no_bias() -> None:
    """What is odd about a prompt shows in the games of all models: it counts once."""
    draw, alarms = np.random.default_rng(5), 0
    for _ in range(60):
        odd = np.tile(draw.choice([0.0, 1.0], 50), 20)  # whether the first response to a prompt is favoured
        found = reliability(np.tile(np.arange(50), 20), odd, 1 - odd, draws=500)
        assert found is not None
        alarms += found.biased
    assert alarms <= 8


def test_kappa_of_two_judges() -> None:
    # 20 prompts: both win on 8, both lose on 6, apart on 6: agreement 0.7, by chance 0.5 · 0.6 + 0.5 · 0.4.
    one = np.array([1] * 8 + [0] * 6 + [1] * 2 + [0] * 4)
    other = np.array([1] * 8 + [0] * 6 + [0] * 2 + [1] * 4)
    assert kappa(one, other) == pytest.approx((0.7 - 0.5) / 0.5)
    assert kappa(one, one) == 1.0
    with pytest.raises(ValueError, match="same prompts"):
        kappa(one, other[:3])


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("Comparison: A.\nWinner: A", 1.0),
        ("Winner: A\n… no:\nWinner: B (shorter)", 0.0),
        ("Winner:C", 0.5),
        ("winner: A", None),
        ("The Winner: A", None),
        ("Winner: Abe", None),
        ("", None),
    ],
)
def test_winners_are_read_from_the_last_line_that_names_one(text: str, outcome: float | None) -> None:
    reading = judge_prompt("tldr").read(Answer(text))
    assert (None if reading is None else reading.outcome) == outcome


def test_braces_in_a_response_stay_as_they_are() -> None:
    messages = judge_prompt("arena_hard").messages("{first} of all", "{second}", "{prompt}")
    text = messages[1]["content"]
    assert "{first} of all" in text
    assert text.index("{second}") < text.index("{prompt}")
