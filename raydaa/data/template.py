"""A tokenizer's chat template: which one is spoken, and what it says of a conversation."""

import json
from collections.abc import Mapping
from typing import Any

from raydaa.data.sources import Message, Messages, Tools

DEFAULT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'][:1] | upper }}{{ message['role'][1:] }}:\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)


def with_template(tokenizer: Any, template: str | None = None, arguments: Mapping[str, Any] | None = None) -> Any:
    """The tokenizer itself with the chat template that is to be spoken; ValueError without an EOS.

    Args:
        tokenizer: Its own template stays where it has one and ``template`` is None; `DEFAULT_TEMPLATE` is the last
            resort.
        template: Jinja text that takes the place of the tokenizer's.
        arguments: What the template is given in every rendering. They become part of it, so that whoever serves the
            model renders what was trained on; a caller's own arguments still win.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no EOS token; a response could never end")
    if template is not None:
        tokenizer.chat_template = template
    if not tokenizer.chat_template:
        tokenizer.chat_template = ("{{ bos_token }}" if has_bos(tokenizer) else "") + DEFAULT_TEMPLATE
    if arguments:
        head = "".join(
            f"{{%- set {name} = {name} if {name} is defined else {_literal(value)} -%}}"
            for name, value in arguments.items()
        )
        known = tokenizer.chat_template
        several = known if isinstance(known, dict) else {"": known}
        changed = {name: head + text for name, text in several.items()}
        tokenizer.chat_template = changed if isinstance(known, dict) else changed[""]
    return tokenizer


def _literal(value: Any) -> str:
    """A plain value as Jinja writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def has_bos(tokenizer: Any) -> bool:
    """Whether texts begin with BOS; one that is EOS as well, as GPT-2's, would end a text before it begins."""
    return tokenizer.bos_token_id is not None and tokenizer.bos_token_id != tokenizer.eos_token_id


def rendering(tokenizer: Any, messages: Messages, tools: Tools, add_generation_prompt: bool, in_parts: bool) -> str:
    """What the template says of a conversation; the template's own error where it refuses it.

    OpenAI writes a call's arguments as text, and null as the content beside it. Where the template refuses that, or
    says the text inside quotes or the null as "None", it is given what servers give it: values, and no text.

    Args:
        in_parts: Whether the template reads a message's text from a list of parts alone.
    """
    ways = [messages]
    if any(message.get("tool_calls") or message.get("content") is None for message in messages):
        other = _with_other_arguments(messages)
        more = (_without_null_content(messages), other, _without_null_content(other))
        ways += [way for way in more if way != messages]
    options = {} if tools is None else {"tools": tools}
    texts: list[str] = []
    refused: Exception | None = None
    for way in ways:
        talk = [_in_parts(message) for message in way] if in_parts else way
        try:
            text = tokenizer.apply_chat_template(
                talk, tokenize=False, add_generation_prompt=add_generation_prompt, **options
            )
        except Exception as error:  # a template is a program of its own and may raise anything
            refused = refused or error
            continue
        texts.append(str(text))
        if not _misread(messages, texts[-1]):
            break
    if refused is not None and not texts:
        raise refused
    return min(texts, key=lambda text: _misread(messages, text))


def _in_parts(message: Message) -> Message:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def _without_null_content(messages: Messages) -> Messages:
    """The same messages, with no text where the content is null."""
    return [{**message, "content": ""} if message.get("content") is None else message for message in messages]


def _misread(messages: Messages, text: str) -> int:
    """How often a rendering has a call's arguments as a text inside quotes or other braces, or null as a word."""
    calls = [call.get("function") for m in messages for call in m.get("tool_calls") or [] if isinstance(call, dict)]
    arguments = [function.get("arguments") for function in calls if isinstance(function, dict)]
    wrong: set[str] = set()
    for argument in arguments:
        if isinstance(argument, str):
            wrong |= {json.dumps(argument), json.dumps(argument, ensure_ascii=False), f"{{{argument}}}"}
    nulls = text.count("None") if any(message.get("content") is None for message in messages) else 0
    return nulls + sum(text.count(mark) for mark in wrong)


def _with_other_arguments(messages: Messages) -> Messages:
    """The same messages with the arguments of calls as what JSON text says, or as JSON text."""

    def other(call: Any) -> Any:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or "arguments" not in function:
            return call
        arguments = function["arguments"]
        try:
            changed = json.loads(arguments) if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        except ValueError:
            return call
        return {**call, "function": {**function, "arguments": changed}}

    return [
        {**message, "tool_calls": [other(call) for call in message["tool_calls"]]}
        if isinstance(message.get("tool_calls"), list)
        else message
        for message in messages
    ]
