"""The exact token ids of every prompt and response, for training and serving alike.

A prompt is what the chat template says up to the point where the assistant speaks. A response is what the template
says from there to the end of the assistant's turn: prompt and response together are the template's own rendering of
the conversation, token by token. Where a token would span the border between them, the prompt's ids stand as a server
has them, and the response is made of what is left.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from raydaa.data.chat import TOOL, ChatFormat
from raydaa.data.sources import (
    THOUGHTS,
    Answer,
    BadRowError,
    Message,
    Messages,
    PreferencePair,
    Tools,
    as_message,
    says_something,
)
from raydaa.data.template import has_bos, with_template

SPANNED = "responses whose first token the template would join with the prompt's last"
REMOVED = "responses with BOS or an end of turn inside, removed"
UNSAID = "responses whose thought, or text beside a call, the template leaves out"
NO_THOUGHT = "responses without a thought to prompts that open one"  # and what to do about it


@dataclass(frozen=True)
class TokenizedPair:
    """Ids of a preference pair; each response ends with its turn unless it was cut at the length limit."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


@dataclass(frozen=True)
class TokenizedExample:
    """Ids of a conversation, and which of them are scored (the assistant's, with the token that ends its turn)."""

    tokens: list[int]
    scored: list[bool]


class Encoder:
    """Messages to ids for one tokenizer and length limit; ``notes`` counts what was cut, removed or looks wrong."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer = with_template(tokenizer)
        self.chat = ChatFormat(self.tokenizer)
        self._chat_with_tools = ChatFormat(self.tokenizer, [TOOL])
        self.max_length = max_length
        self.bos: int | None = tokenizer.bos_token_id if has_bos(tokenizer) else None
        self.notes: Counter[str] = Counter()
        turns = [end.token for chat in (self.chat, self._chat_with_tools) for end in (chat.end, chat.call_end)]
        ends = {*turns, tokenizer.eos_token_id, self.bos}
        self._inside = [self.chat.added[token] for token in sorted(ends & self.chat.added.keys())]

    def _chat(self, tools: Tools) -> ChatFormat:
        return self._chat_with_tools if tools else self.chat

    def prompt_text(self, messages: Messages, tools: Tools = None) -> str:
        """What the model reads before it answers, as text."""
        return self._chat(tools).render(messages, tools, True)

    def prompt(self, messages: Messages, tools: Tools = None) -> list[int]:
        """Ids of `prompt_text`; a BOS that stands twice at the start stands once."""
        return self._ids(self.prompt_text(messages, tools))

    def pair(self, pair: PreferencePair) -> TokenizedPair:
        """BadRowError where the prompt leaves no room or the two responses are the same after cutting."""
        text = self.prompt_text(pair.prompt, pair.tools)
        prompt = self._ids(text)
        room = self.max_length - len(prompt)
        if room < 1:
            raise BadRowError("prompt longer than max_length")
        chosen, rejected = (
            self._cut(self._response(pair.prompt, answer, pair.tools, text, prompt), room)
            for answer in (pair.chosen, pair.rejected)
        )
        if chosen == rejected:
            raise BadRowError("chosen equals rejected after truncation")
        return TokenizedPair(prompt, chosen, rejected)

    def examples(self, messages: Messages, tools: Tools = None) -> list[TokenizedExample]:
        """A whole conversation, every assistant turn scored in the context that the template gives it as the last.

        A turn whose ``weight`` is 0, as OpenAI's files have it, is context alone.
        One example where the template keeps earlier turns as they were, more where it says them otherwise.
        """
        examples: list[TokenizedExample] = []
        tokens: list[int] = []
        scored: list[bool] = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant" or message.get("weight") == 0:
                continue
            context = messages[:index]
            text = self.prompt_text(context, tools)
            prompt = self._ids(text)
            answer = self._response(context, message, tools, text, prompt)
            if tokens and prompt[: len(tokens)] != tokens:
                examples.append(TokenizedExample(tokens, scored))
                tokens = []
                scored = []
            scored = scored + [False] * (len(prompt) - len(tokens)) + [True] * len(answer)
            tokens = prompt + answer
        if tokens:
            examples.append(TokenizedExample(tokens, scored))
        if not examples:
            raise BadRowError("no assistant turn has a weight")
        kept = [self._shortened(example) for example in examples]
        if not any(any(example.scored[1:]) for example in kept):
            raise BadRowError("prompt longer than max_length")
        return [example for example in kept if any(example.scored[1:])]

    def _shortened(self, example: TokenizedExample) -> TokenizedExample:
        if len(example.tokens) <= self.max_length:
            return example
        self.notes["conversations cut at max_length"] += 1
        return TokenizedExample(example.tokens[: self.max_length], example.scored[: self.max_length])

    def _response(self, messages: Messages, answer: Answer, tools: Tools, text: str, prompt: list[int]) -> list[int]:
        """Ids after ``prompt``, whose text is ``text``, to the end of the assistant's turn."""
        message = self._clean(as_message(answer))
        chat = self._chat(tools)
        reply_text, end = chat.reply(messages, message, tools, text)
        if chat.thought is not None and not _has_thought(message):
            self.notes[f"{NO_THOUGHT} (set {chat.without_thought})"] += 1
        if any(part.strip() not in reply_text for part in _beside(message)):
            self.notes[UNSAID] += 1
        ids = self._ids(text + reply_text)
        if ids[: len(prompt)] == prompt:
            ids = ids[len(prompt) :]
        else:
            self.notes[SPANNED] += 1
            ids = self._ids_after(text, reply_text)
        return ids if end is None else [*ids, end]

    def _clean(self, message: Message) -> Message:
        """Without tokens inside its text that would begin a text or end the turn."""
        parts = {name: message[name] for name in ("content", "tool_calls", *THOUGHTS) if message.get(name)}
        kept = {name: self._without_ends(part) for name, part in parts.items()}
        if kept == parts:
            return message
        self.notes[REMOVED] += 1
        cleaned = {**message, **kept}
        if not says_something(cleaned):
            raise BadRowError("empty response")
        return cleaned

    def _without_ends(self, value: Any) -> Any:
        """A text, or all texts in a nested value, without those tokens."""
        if isinstance(value, dict):
            return {name: self._without_ends(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._without_ends(item) for item in value]
        for token in self._inside if isinstance(value, str) else ():
            value = value.replace(token, "")
        return value

    def _ids(self, text: str) -> list[int]:
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return ids[1:] if self.bos is not None and ids[:2] == [self.bos, self.bos] else ids

    def _ids_after(self, text: str, answer: str) -> list[int]:
        """Ids of ``answer`` as it stands after ``text``, where the token at the border belongs to both."""
        if not self.tokenizer.is_fast:
            return self._inner_ids(answer)
        whole = self.tokenizer(text + answer, add_special_tokens=False, return_offsets_mapping=True)
        border = len(text)
        spans = list(zip(whole["input_ids"], whole["offset_mapping"], strict=True))
        after = next((index for index, (_, span) in enumerate(spans) if span[0] >= border), len(spans))
        clean = spans[after][1][0] if after < len(spans) else len(text) + len(answer)
        return self._inner_ids((text + answer)[border:clean]) + [token for token, _ in spans[after:]]

    def _inner_ids(self, text: str) -> list[int]:
        """Ids of a text that begins none: behind a line break, SentencePiece puts no space before it."""
        anchor = self._ids("\n")
        whole = self._ids("\n" + text)
        return whole[len(anchor) :] if whole[: len(anchor)] == anchor else self._ids(text)

    def _cut(self, ids: list[int], room: int) -> list[int]:
        if len(ids) > room:
            self.notes["responses cut at max_length"] += 1
        return ids[:room]


def _has_thought(message: Message) -> bool:
    text = message.get("content") or ""
    thought = any(message.get(name) for name in THOUGHTS)
    return thought or ("</" in text and "think" in text) or "[/THINK]" in text


def _beside(message: Message) -> list[str]:
    """The thoughts of an answer that stand in fields of their own, and its text where it is beside a call."""
    names = [*THOUGHTS, "content"] if message.get("tool_calls") else THOUGHTS
    return [message[name] for name in names if isinstance(message.get(name), str)]
