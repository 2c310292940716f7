"""What endpoints of OpenAI's chat protocol send back, odd ones among them: an answer, or why there is none."""

import html
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raydaa.errors import RaydaaError
from raydaa.judging.prompt import Answer

CUT = ("length", "max_tokens", "content_filter", "safety", "error", "abort")  # reasons why an answer is not whole
MOST_TOKENS = 10**9  # of one answer
# Statuses of errors that are told by name.
NAMED = {
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "unsupported_parameter": 400,
    "unsupported_value": 400,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "insufficient_quota": 403,
    "permission_error": 403,
    "model_not_found": 404,
    "not_found_error": 404,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
}
SAID = 300  # characters of a server's sentence that are shown
_REFUSED_KEY = re.compile(
    r"not support|unsupport|unrecogni|unknown|not permitted|not allowed|extra input|extra field|unexpected|deprecat"
    r"|only the default",
    re.IGNORECASE,
)
_INSTEAD = re.compile(r"\buse\s+['\"`]?(\w+)['\"`]?\s+instead", re.IGNORECASE)


@dataclass(frozen=True)
class NoAnswerError(RaydaaError):
    """A reply without a completion: its ``text``, and the ``status`` that a success tells of its own error."""

    text: str
    status: int | None = None


def read_completion(text: str) -> tuple[Answer, tuple[int, int]]:
    """The answer in a reply's body, and its prompt and completion tokens (0 where they are not told).

    Server-sent events are put together. NoAnswerError where it holds none.
    """
    parsed = _parsed(text)
    body: dict[str, Any] = parsed if isinstance(parsed, dict) else {}
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise NoAnswerError(text, _status(body))
    if choice.get("error"):  # a model behind the server failed, perhaps half-way
        error = {"error": choice["error"]}
        raise NoAnswerError(json.dumps(error), _status(error))
    message: dict[str, Any] = choice["message"] if isinstance(choice.get("message"), dict) else {}
    cut = str(choice.get("finish_reason")).lower() in CUT
    answer = _text(message.get("content")) or _text(choice.get("text")) or _text(message.get("refusal"))
    return Answer(answer, _likeliest(choice.get("logprobs")), cut), _used(body.get("usage"))


def _status(body: dict[str, Any]) -> int | None:
    """The HTTP status that an error's body names; None where it names none, or is no error's."""
    error = body.get("error")
    for part in (error if isinstance(error, dict) else {}, body):
        for name in ("code", "status", "status_code", "type"):
            value = str(part.get(name))
            if value in NAMED:
                return NAMED[value]
            if re.fullmatch(r"[45]\d\d", value):
                return int(value)
    return None


def _parsed(text: str) -> Any:
    if re.match(r"\s*(data|event|id|retry)?:", text):  # server-sent events; a line may be a comment
        return _joined(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _joined(text: str) -> dict[str, Any] | None:
    """The completion that a stream of events tells piece by piece."""
    pieces = []
    reason = None
    usage = None
    logprobs = None
    lines = re.split(r"\r\n|\n|\r", text)
    events = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
    for event in events:
        try:
            chunk = json.loads(event)
        except (ValueError, RecursionError):
            continue
        if not isinstance(chunk, dict):
            continue
        if chunk.get("error"):
            return chunk
        usage = chunk.get("usage") or usage
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict) or choice.get("index", 0) not in (0, None):
                continue
            delta = choice.get("delta") or choice.get("message")
            pieces.append(_text(delta.get("content")) if isinstance(delta, dict) else "")
            pieces[-1] = pieces[-1] or _text(choice.get("text"))
            reason = choice.get("finish_reason") or reason
            logprobs = logprobs or choice.get("logprobs")
    if not pieces:
        return None
    choice = {"message": {"content": "".join(pieces)}, "finish_reason": reason, "logprobs": logprobs}
    return {"choices": [choice], "usage": usage}


def _text(content: Any) -> str:
    """A message's content: text, or a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [{"text": part} if isinstance(part, str) else part for part in content]
    texts = [p.get("text") for p in parts if isinstance(p, dict) and p.get("type", "text") in ("text", "output_text")]
    return "".join(text for text in texts if isinstance(text, str))


def _likeliest(logprobs: Any) -> list[tuple[str, float]]:
    """Alternatives of the first token with their log-probabilities, where they were sent."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    first = content[0] if isinstance(content, list) and content else None
    known = (first.get("top_logprobs") or []) if isinstance(first, dict) else []
    return [
        (token["token"], float(token["logprob"]))
        for token in known
        if isinstance(token, dict)
        and isinstance(token.get("token"), str)
        and isinstance(token.get("logprob"), int | float)
    ]


def _used(usage: Any) -> tuple[int, int]:
    if not isinstance(usage, dict):
        return 0, 0
    prompt, completion = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    return prompt, completion


def _count(value: Any) -> int:
    """A number of tokens; 0 for what can't be one."""
    known = isinstance(value, int | float) and 0 <= value < MOST_TOKENS  # NaN is not
    return int(value) if known else 0


def sentence_of(text: str, secret: str = "") -> str:
    """What a server says instead of an answer, on one line and without the key."""
    body = _parsed(text)
    sentence = _message(body) if isinstance(body, dict | list) else re.sub(r"<[^>]*>", " ", text)
    sentence = " ".join(html.unescape(sentence).split())
    if secret:
        sentence = sentence.replace(secret, "…")
    sentence = re.sub(r"\b(sk|pk|key|Bearer)[-_ ][\w*.…-]{6,}", "…", sentence)
    return sentence if len(sentence) <= SAID else sentence[: SAID - 1] + "…"


def _message(body: Any) -> str:
    """The sentence in an error's body, wherever servers put it."""
    if isinstance(body, str):
        return body
    if isinstance(body, list):
        return "; ".join(filter(None, map(_message, body)))
    if isinstance(body, dict):
        for name in ("error", "message", "detail", "msg", "errors"):
            if body.get(name) and (sentence := _message(body[name])):
                return sentence
    return ""


def adapted(options: Mapping[str, Any], text: str) -> tuple[str, str | None] | None:
    """The option that an endpoint refuses, by its error's body, and what it wants in its place (None: nothing).

    None where the error is about something else.
    """
    body = _parsed(text)
    error = body.get("error", body) if isinstance(body, dict) else {}
    sentence = sentence_of(text)
    code = str(error.get("code", "")) if isinstance(error, dict) else ""
    if not (_REFUSED_KEY.search(sentence) or code.startswith(("unsupported", "unknown"))):
        return None
    named = error.get("param") if isinstance(error, dict) else None
    refused = next((name for name in _first([named], _words(text)) if name in options), None)
    if refused is None:
        return None
    instead = _INSTEAD.search(sentence)
    return refused, instead[1] if instead and instead[1] not in options else None


def _first(*groups: Iterable[Any]) -> Iterable[str]:
    for group in groups:
        yield from (str(name) for name in group if name)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)
