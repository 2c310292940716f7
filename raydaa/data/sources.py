"""What a row of a source says: a preference pair, a conversation or a prompt, in any of the layouts in use."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raydaa.errors import RaydaaError

Message = dict[str, Any]  # role, content, and what `EXTRAS` names
Messages = list[Message]
Answer = str | Message  # a message where it is more than text
Tools = list[Any] | None  # JSON schemas, as chat templates take them

# Of a message, beside role and content: what chat templates read.
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
EXTRAS = ("name", "tool_calls", "tool_call_id", *THOUGHTS)
SYSTEMS = ("system", "system_prompt")
INSTRUCTION = ("instruction", "input", "context", "history")
# Columns that are read where a row has them, whatever is mapped.
CONTEXT_COLUMNS = (*SYSTEMS, *INSTRUCTION, "tools", "turns")


@dataclass(frozen=True)
class PreferencePair:
    """A prompt as messages, and two responses."""

    prompt: Messages
    chosen: Answer
    rejected: Answer
    tools: Tools = None


@dataclass(frozen=True)
class Conversation:
    """Messages and the tools that they may call."""

    messages: Messages
    tools: Tools = None


class BadRowError(RaydaaError, ValueError):
    """Why one row can't be used: it is counted and written to the rejects."""


def as_message(answer: Answer) -> Message:
    """An answer as the assistant's message."""
    return {"role": "assistant", "content": answer} if isinstance(answer, str) else answer


def text_of(answer: Answer) -> str:
    """What a reader sees of an answer: its text, or the calls that it makes."""
    if isinstance(answer, str):
        return answer
    text = answer.get("content") or ""
    calls = answer.get("tool_calls")
    return text if not calls else "\n".join(filter(None, [text, json.dumps(calls, ensure_ascii=False)]))


def preference_pair(row: Mapping[str, Any], columns: Mapping[str, str]) -> PreferencePair:
    """A pair from any of the layouts in use.

    Responses are text, or conversations that end with them. The prompt stands in a column of its own, in the
    conversations, or in both; what stands in both must agree.
    """
    chosen_context, chosen = _answered(row.get(columns["chosen"]))
    rejected_context, rejected = _answered(row.get(columns["rejected"]))
    if chosen_context != rejected_context:
        raise BadRowError("chosen and rejected answer different prompts")
    prompt = _with_system(_joined(_given_prompt(row, columns["prompt"]), chosen_context), row)
    if not any(says_something(message) for message in _system_apart(prompt)[1]):
        raise BadRowError("empty prompt")
    for answer in (chosen, rejected):
        if not says_something(as_message(answer)):
            raise BadRowError("empty response")
    if chosen == rejected:
        raise BadRowError("chosen equals rejected")
    return PreferencePair(prompt, chosen, rejected, tools_of(row))


def conversation(row: Mapping[str, Any], columns: Mapping[str, str]) -> Conversation:
    """An SFT example: from ``messages``, from ``prompt`` and ``response``, or from an instruction.

    Instructions are rows as Alpaca's (``instruction``, ``input``, ``output``) or Dolly's (``instruction``,
    ``context``, ``response``).
    """
    if row.get(columns["messages"]) is not None:
        messages = messages_of(row[columns["messages"]])
    else:
        response = row.get("output") if is_alpaca(row) else row.get(columns["response"])
        if not isinstance(response, str):
            raise BadRowError("the response is not text")
        messages = [*(_given_prompt(row, columns["prompt"]) or []), as_message(response)]
    messages = _with_system(messages, row)
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers or next(m["role"] for m in messages if m["role"] != "system") == "assistant":
        raise BadRowError("no assistant turn that answers a prompt")
    if not all(says_something(answer) for answer in answers):
        raise BadRowError("empty response")
    return Conversation(messages, tools_of(row))


def prompt_of(row: Mapping[str, Any], column: str) -> Conversation:
    """A row's prompt, with its system message and tools."""
    prompt = _given_prompt(row, column)
    if prompt is None:
        raise BadRowError("the prompt is neither text nor chat messages")
    if not any(says_something(message) for message in _system_apart(prompt)[1]):
        raise BadRowError("empty prompt")
    return Conversation(_with_system(prompt, row), tools_of(row))


def is_alpaca(row: Mapping[str, Any]) -> bool:
    """Whether a row is an instruction with its ``output``."""
    return "instruction" in row and "output" in row and "response" not in row


def tools_of(row: Mapping[str, Any]) -> Tools:
    """The tools of a row: a list of JSON schemas, or its JSON text."""
    tools = row.get("tools")
    try:
        tools = json.loads(tools) if isinstance(tools, str) and tools.strip() else tools
        if not tools:
            return None
        if not isinstance(tools, list):
            raise BadRowError("tools is not a list")
        return [_without_nulls(json.loads(tool) if isinstance(tool, str) else tool) for tool in tools]
    except (json.JSONDecodeError, RecursionError):
        raise BadRowError("tools is not JSON") from None


def _given_prompt(row: Mapping[str, Any], column: str) -> Messages | None:
    """What a row says of its prompt apart from the answers: its own column, an instruction, or the first turn."""
    if row.get(column) not in (None, "", []):
        return messages_of(row[column])
    if row.get("instruction") is not None:
        return _instruction(row)
    turns = row.get("turns")
    if isinstance(turns, list) and turns and isinstance(turns[0], dict):
        return messages_of(turns[0].get("content"))
    return None


def _instruction(row: Mapping[str, Any]) -> Messages:
    """An instruction with what it is about, after the turns before it."""
    parts = [row["instruction"], *(row.get(name) or "" for name in ("input", "context"))]
    if not all(isinstance(part, str) for part in parts):
        raise BadRowError("the instruction is not text")
    text = "\n\n".join(part for part in dict.fromkeys(parts) if part)
    if not text.strip():
        raise BadRowError("empty prompt")
    before: Messages = []
    history = row.get("history") or []
    if not isinstance(history, list):
        raise BadRowError("history is not a list of questions with their answers")
    for turn in history:
        if not isinstance(turn, list | tuple) or len(turn) != 2 or not all(isinstance(side, str) for side in turn):
            raise BadRowError("history is not a list of questions with their answers")
        before += [{"role": "user", "content": turn[0]}, as_message(turn[1])]
    return [*before, {"role": "user", "content": text}]


def _joined(messages: Messages | None, context: Messages) -> Messages:
    """One prompt from its own column and from the conversations that may repeat it or go on from it."""
    if not messages or not context:
        return messages or context
    system, turns = _system_apart(messages)
    own_system, repeated = _system_apart(context)
    if system and own_system and system != own_system:
        raise BadRowError("the prompt disagrees with the conversation")
    if not repeated or repeated[0]["role"] == "assistant":
        repeated = turns + repeated
    elif not _agree(turns, repeated):
        raise BadRowError("the prompt disagrees with the conversation")
    return [*(system or own_system), *repeated]


def _agree(prompt: Messages, repeated: Messages) -> bool:
    """Whether a conversation begins with the prompt, or the prompt is one of its user's turns."""
    repeated_turns = [_stripped(message) for message in repeated]
    begins = repeated_turns[: len(prompt)] == [_stripped(message) for message in prompt]
    return begins or (len(prompt) == 1 and _stripped(prompt[0]) in repeated_turns)


def _stripped(message: Message) -> tuple[str, str]:
    return message["role"], (message.get("content") or "").strip()


def _system_apart(messages: Messages) -> tuple[Messages, Messages]:
    first = 1 if messages and messages[0]["role"] == "system" else 0
    return messages[:first], messages[first:]


def _with_system(messages: Messages, row: Mapping[str, Any]) -> Messages:
    """With the system message that stands in a column of its own."""
    for column in SYSTEMS:
        text = row.get(column)
        if not isinstance(text or "", str):
            raise BadRowError(f"the column {column} is not text")
        if not text or not text.strip():
            continue
        system, others = _system_apart(messages)
        if system and system[0]["content"] != text:
            raise BadRowError(f"the column {column} disagrees with the conversation's system message")
        messages = [{"role": "system", "content": text}, *others]
    return messages


def messages_of(value: Any) -> Messages:
    """Chat messages from text (one user turn, or an Anthropic "\\n\\nHuman:" transcript) or a list of messages."""
    if isinstance(value, str):
        messages = _transcript(value) if is_transcript(value) else [{"role": "user", "content": value}]
        # A prompt that ends in "Assistant:" asks for the answer; it holds no empty one.
        return messages[:-1] if messages[-1] == {"role": "assistant", "content": ""} else messages
    if isinstance(value, list) and value and all(isinstance(m, dict) for m in value):
        return [_message(message) for message in value]
    raise BadRowError("the prompt is neither text nor chat messages")


def _message(turn: Mapping[str, Any]) -> Message:
    """A message with what chat templates read of it; parts of text are joined."""
    role = turn.get("role")
    content = turn.get("content")
    if isinstance(content, list) and content and all(isinstance(p, dict) and _is_text(p) for p in content):
        content = "".join(part["text"] for part in content)
    extras = {name: _without_nulls(turn[name]) for name in EXTRAS if turn.get(name)}
    if turn.get("function_call") and "tool_calls" not in extras:  # as OpenAI wrote calls before tools
        extras["tool_calls"] = [{"type": "function", "function": _without_nulls(turn["function_call"])}]
    if turn.get("weight") == 0:
        extras["weight"] = 0
    role = "tool" if role == "function" else role
    if not isinstance(role, str) or not (isinstance(content, str) or (content is None and "tool_calls" in extras)):
        raise BadRowError("the prompt is neither text nor chat messages")
    return {"role": role, "content": content, **extras}


def _is_text(part: Mapping[str, Any]) -> bool:
    return part.get("type", "text") == "text" and isinstance(part.get("text"), str)


def _without_nulls(value: Any) -> Any:
    """A nested value without the keys that a columnar file filled with nothing."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def says_something(message: Message) -> bool:
    """Whether a message has text or calls a tool."""
    return bool((message.get("content") or "").strip() or message.get("tool_calls"))


def _answered(value: Any) -> tuple[Messages, Answer]:
    """The context and the final answer in a ``chosen`` or ``rejected`` field."""
    if value is None:
        raise BadRowError("empty response")
    if isinstance(value, str) and not is_transcript(value):
        return [], value
    messages = messages_of([value] if isinstance(value, dict) else value)
    if not messages or messages[-1]["role"] != "assistant":
        raise BadRowError("empty response")
    last = messages[-1]
    return messages[:-1], last["content"] if set(last) == {"role", "content"} else last


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
