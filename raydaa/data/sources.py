"""What a row of a source says: a preference pair, a conversation or a prompt, in any of the layouts in use."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class PreferencePair:
    """A prompt as messages, and two responses as text."""

    prompt: Messages
    chosen: str
    rejected: str


class BadRowError(ValueError):
    """Why one row can't be used: it is counted and written to the rejects."""


def preference_pair(row: Mapping[str, Any], columns: Mapping[str, str]) -> PreferencePair:
    """A pair from any of the layouts in use: text or messages, prompt apart or repeated in both conversations."""
    chosen_context, chosen = _conversation(row.get(columns["chosen"]))
    rejected_context, rejected = _conversation(row.get(columns["rejected"]))
    if chosen_context != rejected_context:
        raise BadRowError("chosen and rejected answer different prompts")
    prompt = chosen_context or messages_of(row.get(columns["prompt"]))
    if not prompt or not any(message["content"].strip() for message in prompt):
        raise BadRowError("empty prompt")
    if not chosen.strip() or not rejected.strip():
        raise BadRowError("empty response")
    if chosen == rejected:
        raise BadRowError("chosen equals rejected")
    return PreferencePair(prompt, chosen, rejected)


def conversation(row: Mapping[str, Any], columns: Mapping[str, str]) -> Messages:
    """An SFT example as messages: from ``messages``, from ``prompt`` and ``response``, or from an instruction.

    Instructions are rows as Alpaca's (``instruction``, ``input``, ``output``) or Dolly's (``instruction``,
    ``context``, ``response``).
    """
    if columns["messages"] in row:
        messages = messages_of(row[columns["messages"]])
    else:
        response = row.get("output") if is_alpaca(row) else row.get(columns["response"])
        if not isinstance(response, str):
            raise BadRowError("the response is not text")
        messages = [*prompt_of(row, columns["prompt"]), {"role": "assistant", "content": response}]
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not answers or messages[0]["role"] == "assistant":
        raise BadRowError("no assistant turn that answers a prompt")
    if not all(answer.strip() for answer in answers):
        raise BadRowError("empty response")
    return messages


def is_alpaca(row: Mapping[str, Any]) -> bool:
    """Whether a row is an instruction with its ``output``."""
    return "instruction" in row and "output" in row and "response" not in row


def prompt_of(row: Mapping[str, Any], column: str) -> Messages:
    """A row's prompt as messages: its own column, an instruction and what it is about, or the first of its turns."""
    turns = row.get("turns")
    if column not in row and isinstance(turns, list) and turns and isinstance(turns[0], dict):
        return messages_of(turns[0].get("content"))
    if column in row or "instruction" not in row:
        return messages_of(row.get(column))
    about = row.get("input") or row.get("context")
    if not isinstance(row["instruction"], str) or not isinstance(about or "", str):
        raise BadRowError("the instruction is not text")
    text = row["instruction"] + (f"\n\n{about}" if about else "")
    if not text.strip():
        raise BadRowError("empty prompt")
    return [{"role": "user", "content": text}]


def messages_of(value: Any) -> Messages:
    """Chat messages from text (one user turn, or an Anthropic "\\n\\nHuman:" transcript) or a list of messages."""
    if isinstance(value, str):
        messages = _transcript(value) if is_transcript(value) else [{"role": "user", "content": value}]
        # A prompt that ends in "Assistant:" asks for the answer; it holds no empty one.
        return messages[:-1] if messages[-1] == {"role": "assistant", "content": ""} else messages
    if isinstance(value, list) and value and all(isinstance(m, dict) for m in value):
        messages = [{"role": m.get("role"), "content": m.get("content")} for m in value]
        if all(isinstance(m["role"], str) and isinstance(m["content"], str) for m in messages):
            return messages
    raise BadRowError("the prompt is neither text nor chat messages")


def _conversation(value: Any) -> tuple[Messages, str]:
    """The context and the final answer in a ``chosen`` or ``rejected`` field."""
    if value is None:
        raise BadRowError("empty response")
    if isinstance(value, str) and not is_transcript(value):
        return [], value
    messages = messages_of(value)
    if not messages or messages[-1]["role"] != "assistant":
        raise BadRowError("empty response")
    return messages[:-1], messages[-1]["content"]


def is_transcript(text: str) -> bool:
    """Whether a text is a whole "Human: … Assistant: …" conversation, as in Anthropic's data."""
    return text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def _transcript(text: str) -> Messages:
    messages: Messages = []
    for part in ("\n\n" + text.strip()).split("\n\nHuman:")[1:]:
        question, *answers = part.split("\n\nAssistant:")
        messages.append({"role": "user", "content": question.strip()})
        messages.extend({"role": "assistant", "content": answer.strip()} for answer in answers)
    return messages
