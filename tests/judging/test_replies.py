"""Forty and more behaviours of endpoints: a good verdict is kept, what is none is left out, and errors are quoted."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from raydaa.evaluation.arena_hard import DEGREES, read_verdict
from raydaa.judging import language
from raydaa.judging.cache import VerdictCache
from raydaa.judging.judge import JudgeError
from raydaa.judging.language import READINGS, JudgeClient
from raydaa.judging.prompt import Answer, ParsedVerdict, judge_prompt
from raydaa.judging.protocol import read_completion
from tests.judging.server import Body, Reply, completion, serving
from tests.judging.test_language import GAMES, KEY, expected, judge, said

pytest.importorskip("openai", reason="openai is not installed")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDAA_TEST_JUDGE", KEY)
    monkeypatch.setattr(language, "PAUSE_SECONDS", 0.01)


def with_choice(**changes: Any) -> Body:
    """A good completion whose choice is otherwise in some things."""
    body = completion("Winner: A")
    choice = {**body["choices"][0], **{k: v for k, v in changes.items() if k != "message"}}
    choice["message"] = {**choice["message"], **changes.get("message", {})}
    return {**body, "choices": [choice]}


def stream(*texts: str, ending: str = "data: [DONE]\n\n") -> str:
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + ending


PARTS = [{"type": "text", "text": "Comparison.\n"}, {"type": "text", "text": "Winner: A"}]
SSE = {"Content-Type": "text/event-stream"}
# Odd replies that hold a verdict: it is kept, at the first asking.
GOOD: dict[str, Body | str | Reply] = {
    "null usage": {**completion("Winner: A"), "usage": None},
    "no usage": {k: v for k, v in completion("Winner: A").items() if k != "usage"},
    "usage of nulls": {**completion("Winner: A"), "usage": {"prompt_tokens": None, "completion_tokens": None}},
    "usage that is text": {**completion("Winner: A"), "usage": "12"},
    "content in parts": with_choice(message={"content": PARTS}),
    "content as a list of texts": with_choice(message={"content": ["Winner: ", "A"]}),
    "no id, no model": {"choices": completion("Winner: A")["choices"]},
    "no finish reason": with_choice(finish_reason=None),
    "an unknown finish reason": with_choice(finish_reason="eos"),
    "unknown fields": {**with_choice(extra={"a": [1]}), "provider": "x"},
    "a null error": {**completion("Winner: A"), "error": None},
    "reasoning beside": with_choice(message={"reasoning_content": "Winner: B?"}),
    "a thought that ended": with_choice(message={"content": "<think>Winner: B</think>\nWinner: A"}),
    "a thought that the prompt opened": with_choice(message={"content": "Winner: B …\n</think>\nWinner: A"}),
    "a stream": Reply(stream("Win", "ner: ", "A"), headers=SSE),
    "a stream that says it is JSON": Reply(stream("Winner: A")),
    "a stream without its end": Reply(stream("Winner: A", ending=""), headers=SSE),
    "JSON said to be text": Reply(json.dumps(completion("Winner: A")), headers={"Content-Type": "text/plain"}),
    "Markdown": with_choice(message={"content": "**Winner: A**"}),
    "a heading": with_choice(message={"content": "### Winner: A"}),
    "bold letter": with_choice(message={"content": "Winner: **A**"}),
    "code": with_choice(message={"content": "`Winner: A`"}),
    "bold name": with_choice(message={"content": "**Winner:** A."}),
    "a quotation": with_choice(message={"content": "> - Winner: [[A]]"}),
    "boxed": with_choice(message={"content": "Winner: $\\boxed{A}$"}),
    "capitals": with_choice(message={"content": "WINNER: A"}),
    "curly quotation marks": with_choice(message={"content": "Winner: “A”"}),
    "HTML": with_choice(message={"content": "<p><b>Winner:</b> <span class='x'>A</span></p>"}),
    "boxed with its name": with_choice(message={"content": "\\boxed{\\text{Winner: A}}"}),
    "a table": with_choice(message={"content": "| | |\n|---|---|\n| Winner | A | shorter |"}),
    "angles": with_choice(message={"content": "Winner: <A>"}),
    "a noun": with_choice(message={"content": "Winner: Summary A (B is long)"}),
    "its reason": with_choice(message={"content": "Winner: A, B is too long or vague"}),
    "carriage returns": with_choice(message={"content": "Comparison: x\r\nWinner: A\r\n"}),
}
# Replies without a verdict, for every asking: left out and counted, never a tie.
NONE: dict[str, Body | str | Reply] = {
    "null content": with_choice(message={"content": None}),
    "empty content": with_choice(message={"content": ""}),
    "filtered": with_choice(finish_reason="content_filter", message={"content": None}),
    "a refusal": with_choice(message={"content": None, "refusal": "I can't help with that."}),
    "cut": with_choice(finish_reason="length", message={"content": "First I thought\nWinner: A\nbut then"}),
    "an open thought": with_choice(message={"content": "<think>\nMaybe\nWinner: A\n"}),
    "a second thought that is open": with_choice(message={"content": "<think>a</think>\nWinner: A\n<think>no"}),
    "only reasoning": with_choice(message={"content": None, "reasoning_content": "Winner: A"}),
    "tool calls": with_choice(finish_reason="tool_calls", message={"content": None, "tool_calls": []}),
    "a message that is none": with_choice(message={"content": {"text": "Winner: A"}}),
    "both": with_choice(message={"content": "Winner: A/B"}),
    "one or the other": with_choice(message={"content": "Winner: **A** or **B**"}),
    "the form": with_choice(message={"content": "Winner: <A, B, or C for a tie>"}),
    "a choice that failed": with_choice(error={"code": 400, "message": "flagged"}, finish_reason="error"),
    "a choice that broke off": with_choice(finish_reason="ERROR"),
    "200 with a status in words": {"error": {"code": "context_length_exceeded", "message": "too long"}},
    "200 with a status that is text": {"error": {"code": "400", "message": "too long"}},
    "200 as old servers have it": {"object": "error", "message": "too long", "type": "BadRequestError", "code": 400},
    "400": Reply({"error": {"message": "the prompt is too long"}}, 400),
    "400 by a content filter": Reply({"error": {"code": "content_filter", "message": "policy"}}, 400),
    "413": Reply("<html><h1>Request Entity Too Large</h1></html>", 413, {"Content-Type": "text/html"}),
    "422": Reply({"detail": [{"loc": ["body"], "msg": "too long"}]}, 422),
    "451": Reply({"error": "not in your country"}, 451),
    "200 with a 400": {"error": {"code": 400, "message": "flagged by a filter"}},
}


@pytest.mark.parametrize("name", GOOD)
def test_a_verdict_in_an_odd_reply_is_kept(name: str, tmp_path: Path) -> None:
    given = GOOD[name]
    with serving(lambda number, body: given if isinstance(given, Reply) else Reply(given)) as server:
        rulings = judge(server.url, tmp_path).rule(GAMES[:3])
        assert [ruling.outcome for ruling in rulings] == [1.0] * 3
        assert len(server.asked) == 3


LATER = [name for name in NONE if name[:3].isdigit()]  # a refusal is another thing before anything was answered


@pytest.mark.parametrize(("name", "first"), [*((name, True) for name in NONE), *((name, False) for name in LATER)])
def test_a_game_without_a_verdict_is_left_out_and_the_others_go_on(name: str, first: bool, tmp_path: Path) -> None:
    odd, given = (0 if first else 5), NONE[name]

    def answer(number: int, body: Body) -> Reply:
        if f"question {odd}\n" not in body["messages"][-1]["content"]:
            return said(body)
        return given if isinstance(given, Reply) else Reply(given)

    with serving(answer) as server:
        rulings = judge(server.url, tmp_path, concurrency=1).rule(GAMES[:8])
        assert [number for number, ruling in enumerate(rulings) if ruling.outcome is None] == [odd]
        asked = len(server.asked)
        assert judge(server.url, tmp_path).rule(GAMES[:8]) == rulings
        assert len(server.asked) == asked


FATAL = {
    "unknown model": (Reply({"error": {"message": "no model judge here"}}, 404), "status 404: no model judge here"),
    "no right": (Reply({"message": "forbidden"}, 403), "status 403: forbidden"),
    "always 400": (Reply({"error": {"message": "bad schema"}}, 400), "status 400: bad schema"),
    "always 422": (Reply({"detail": [{"msg": "no such route"}]}, 422), "status 422: no such route"),
    "no key by its name": ({"error": {"code": "invalid_api_key", "message": "who?"}}, "status 401: who\\?"),
    "always an error at 200": ({"error": {"code": 404, "message": "gone"}}, "status 404: gone"),
}


@pytest.mark.parametrize("name", FATAL)
def test_a_judge_that_refuses_everything_is_quoted_at_once(name: str, tmp_path: Path) -> None:
    given, sentence = FATAL[name]
    with (
        serving(lambda number, body: given if isinstance(given, Reply) else Reply(given)) as server,
        pytest.raises(JudgeError, match=f"refused with {sentence}$") as error,
    ):
        judge(server.url, tmp_path, concurrency=4).rule(GAMES)
    assert not error.value.passing
    assert len(server.asked) <= 20
    assert VerdictCache(tmp_path).rulings == {}


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (
            Reply("<html><h1>502</h1> Bad&nbsp;gateway</html>", headers={"Content-Type": "text/html"}),
            "502 Bad",
        ),
        (Reply({"error": {"message": "the queue is full"}}), "the queue is full"),
        (Reply(""), "an empty reply"),
        (Reply({"object": "list", "data": []}), "a reply without an answer"),
    ],
)
def test_silence_says_what_came_instead(reply: Reply, sentence: str, tmp_path: Path) -> None:
    with serving(lambda number, body: reply) as server, pytest.raises(JudgeError, match=sentence) as error:
        judge(server.url, tmp_path, patience=0.3).rule(GAMES[:2])
    assert error.value.passing


def strict(body: Body) -> Reply:
    """As newer endpoints: one name for a limit, no temperature."""
    if "max_tokens" in body:
        message = "Unsupported parameter: 'max_tokens' is not supported here. Use 'max_completion_tokens' instead."
        return Reply({"error": {"message": message, "param": "max_tokens", "code": "unsupported_parameter"}}, 400)
    if body.get("temperature", 1) != 1:
        message = "Unsupported value: 'temperature' does not support 0.0 here. Only the default (1) value is."
        return Reply({"error": {"message": message, "param": "temperature", "code": "unsupported_value"}}, 400)
    return said(body)


def test_what_an_endpoint_refuses_is_adapted_to_once(tmp_path: Path) -> None:
    with serving(lambda number, body: strict(body)) as server:
        asked = judge(server.url, tmp_path, concurrency=1, parameters={"max_tokens": 50})
        rulings = asked.rule(GAMES)
        assert [ruling.outcome for ruling in rulings] == [expected(game) for game in GAMES]
        assert len(server.asked) == len(GAMES) + 2
        last = server.asked[-1]
        assert last["max_completion_tokens"] == 50
        assert not {"max_tokens", "temperature"} & set(last)
        other = JudgeClient(asked.endpoint, judge_prompt("arena_hard"), VerdictCache(tmp_path), asked.spent)
        other.rule(GAMES[:1])  # as another benchmark of the same run
        assert [body.keys() for body in server.asked[len(GAMES) + 2 :]] == [last.keys()] * READINGS


def test_what_is_refused_at_status_200_is_adapted_to_too(tmp_path: Path) -> None:
    error = {"message": "Unsupported value.", "param": "temperature", "code": "unsupported_value"}

    def answer(body: Body) -> Reply:
        return Reply({"error": error}) if "temperature" in body else said(body)

    with serving(lambda number, body: answer(body)) as server:
        assert judge(server.url, tmp_path, concurrency=1).rule(GAMES[:2])[1].outcome == expected(GAMES[1])
        assert len(server.asked) == 3


def test_an_error_about_the_length_takes_no_option_away(tmp_path: Path) -> None:
    message = "'max_tokens' is too large: this model's maximum context length is 100 tokens; reduce the messages"

    with serving(lambda number, body: refusing(body, message)) as server:
        rulings = judge(server.url, tmp_path, parameters={"max_tokens": 50}).rule(GAMES[:5])
        assert [number for number, ruling in enumerate(rulings) if ruling.outcome is None] == [2]
        assert all(body["max_tokens"] == 50 for body in server.asked)


def refusing(body: Body, message: str) -> Reply:
    """Refuses the game of question 2."""
    refused = "question 2\n" in body["messages"][-1]["content"]
    return Reply({"error": {"message": message}}, 400) if refused else said(body)


def test_parameters_add_rename_and_leave_out_and_make_another_judge(tmp_path: Path) -> None:
    parameters = {"max_completion_tokens": 9, "temperature": None, "top_p": 0.5, "chat_template_kwargs": {"a": 1}}
    with serving(lambda number, body: said(body)) as server:
        plain = judge(server.url, tmp_path)
        plain.rule(GAMES[:1])
        other = judge(server.url, tmp_path, parameters=parameters)
        other.rule(GAMES[:1])
        assert server.asked[0]["temperature"] == 0
        body = {k: v for k, v in server.asked[1].items() if k not in ("model", "messages")}
        assert body == {"max_completion_tokens": 9, "top_p": 0.5, "chat_template_kwargs": {"a": 1}}
        assert plain.key(GAMES[0]) != other.key(GAMES[0])


def test_a_judge_works_inside_an_event_loop(tmp_path: Path) -> None:
    async def cell(url: str) -> list[float | None]:
        return [ruling.outcome for ruling in judge(url, tmp_path).rule(GAMES)]

    with serving(lambda number, body: said(body)) as server:
        assert asyncio.run(cell(server.url)) == [expected(game) for game in GAMES]


def test_proxies_never_stand_before_what_this_machine_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.delenv("no_proxy", raising=False)
    with serving(lambda number, body: said(body)) as server:
        assert judge(server.url, tmp_path, patience=1.0).rule(GAMES[:1])[0].outcome == expected(GAMES[0])


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("**[[A>>B]]**", "A>>B"),
        ("\\[\\[B>A\\]\\]", "B>A"),
        ("[[A&gt;B]]", "A>B"),
        ("My final verdict is: [[ **A = B** ]]", "A=B"),
        ("`[[B>>A]]`", "B>>A"),
        ("[[A>>B]] … no: [[B>A]]", "B>A"),
        ("[[A≫B]]", "A>>B"),
        ("[[b＞a]]", "B>A"),
        ("A>>B", None),
    ],
)
def test_degrees_are_read_in_markdown(text: str, verdict: str | None) -> None:
    assert read_verdict(text) == verdict
    assert judge_prompt("arena_hard").read(Answer(f"<think>[[A=B]]</think>{text}")) == (
        None if verdict is None else ParsedVerdict(*DEGREES[verdict])
    )


def test_no_part_of_a_key_is_left_where_an_error_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "deadbeefcafe0123456789abcdef99"
    monkeypatch.setenv("RAYDAA_TEST_JUDGE", secret)
    reply = Reply({"error": {"message": "x" * 285 + f" {secret}", "code": 401}})
    with serving(lambda number, body: reply) as server, pytest.raises(JudgeError) as error:
        judge(server.url, tmp_path).rule(GAMES[:1])
    assert secret[:6] not in str(error.value)


def test_options_that_each_name_the_other_are_adapted_to_once(tmp_path: Path) -> None:
    def answer(body: Body) -> Reply:
        name, other = ("max_tokens", "max_completion_tokens")
        name, other = (name, other) if name in body else (other, name)
        message = f"Unsupported parameter: '{name}' is not supported here. Use '{other}' instead."
        return Reply({"error": {"message": message, "param": name, "code": "unsupported_parameter"}}, 400)

    with (
        serving(lambda number, body: answer(body)) as server,
        pytest.raises(JudgeError, match="refused with status 400"),
    ):
        judge(server.url, tmp_path, concurrency=1, parameters={"max_tokens": 9}, max_requests=40).rule(GAMES[:2])
    assert len(server.asked) <= 4


@pytest.mark.parametrize(
    "text",
    [
        '{"choices": [{"message": {"content": "Winner: A"}}], "usage": {"prompt_tokens": Infinity}}',
        '{"choices": [{"message": {"content": "Winner: A"}}], "usage": {"prompt_tokens": NaN}}',
        '{"choices": [{"message": {"content": "Winner: A"}}], "usage": {"prompt_tokens": 1e30, "total_tokens": -5}}',
        ': WAIT\n\ndata: {"choices": [{"delta": {"content": "Winner: A"}}]}\n\n',
        'event: message\ndata: {"choices": [{"delta": {"content": "Winner: A"}}], "error": null}\n\n',
        'data: {"choices": [1]}\n\ndata: {"choices": [{"delta": {"content": "Winner:\u2028A"}}]}\n\n',
        'data: {"choices": [{"index": 0, "delta": {"content": "Winner: A"}}, {"index": 1, "text": "B"}]}\n\n',
        'data: {"choices": {}}\n\ndata: {"choices": [{"text": "Winner: A"}]}\n\n',
    ],
)
def test_odd_bodies_are_read(text: str) -> None:
    answer, used = read_completion(text)
    reading = judge_prompt("tldr").read(answer)
    assert reading is not None
    assert reading.outcome == 1.0
    assert used == (0, 0)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("[THINK]\nWinner: A", None),
        ("[THINK]\nWinner: A\n[/THINK]\nI cannot say.", None),
        ("[THINK]no[/THINK]\nWinner: A", 1.0),
        ("<seed:think>\nWinner: A", None),
        ("<think >\nWinner: A", None),
        ("◁think▷\nWinner: A", None),
        ("<|begin_of_thought|>\nWinner: A", None),
        ("<|channel|>analysis<|message|>\nWinner: A", None),
    ],
)
def test_thoughts_are_known_by_other_marks_too(text: str, outcome: float | None) -> None:
    reading = judge_prompt("tldr").read(Answer(text))
    assert (None if reading is None else reading.outcome) == outcome
