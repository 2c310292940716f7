"""The exact text and token ids of every prompt and response, for training and serving alike.

A prompt is rendered by the tokenizer's chat template (by `DEFAULT_TEMPLATE` where it has none) up to the
point where the assistant speaks, and tokenized by itself; a response is tokenized by itself and ends with
EOS. BOS stands once, at the start, where the tokenizer has one. Because the two parts are never tokenized
together, the ids a server must continue are exactly the ids that were trained on.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from raydaa.data.sources import BadRowError, Messages, PreferencePair
from raydaa.settings_file import first_line

DEFAULT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'][:1] | upper }}{{ message['role'][1:] }}:\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)


@dataclass(frozen=True)
class TokenizedPair:
    """Ids of a preference pair; each response ends with EOS unless it was cut at the length limit."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


@dataclass(frozen=True)
class TokenizedExample:
    """Ids of a conversation, and which of them are scored (the assistant's, EOS included)."""

    tokens: list[int]
    scored: list[bool]


def with_template(tokenizer: Any) -> Any:
    """The tokenizer itself, given `DEFAULT_TEMPLATE` if it has no chat template; ValueError without an EOS.

    A template that leaves BOS out says it from now on: trained prompts begin with it, and whoever serves the model
    renders the template and adds nothing.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no EOS token; a response could never end")
    if not tokenizer.chat_template:
        tokenizer.chat_template = DEFAULT_TEMPLATE
    if _has_bos(tokenizer) and isinstance(tokenizer.chat_template, str):
        said = _rendered(tokenizer, [{"role": "user", "content": "?"}])
        if said is not None and not said.startswith(tokenizer.bos_token):
            tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    return tokenizer


def _rendered(tokenizer: Any, messages: Messages) -> str | None:
    """None where the template refuses them: it is a program of its own and may raise anything."""
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception:
        return None


def _has_bos(tokenizer: Any) -> bool:
    """One that is EOS as well, as GPT-2's, would end a text before it begins."""
    return tokenizer.bos_token_id is not None and tokenizer.bos_token_id != tokenizer.eos_token_id


class Encoder:
    """Messages to ids for one tokenizer and length limit; ``notes`` counts what was cut or removed."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer = with_template(tokenizer)
        self.max_length = max_length
        self.bos: int | None = tokenizer.bos_token_id if _has_bos(tokenizer) else None
        self.eos: int = tokenizer.eos_token_id
        self.notes: Counter[str] = Counter()

    def prompt_text(self, messages: Messages) -> str:
        """What the model reads before it answers, as text."""
        return self._render(messages, True)

    def prompt(self, messages: Messages) -> list[int]:
        """Ids of `prompt_text`, BOS first where the tokenizer has one."""
        return self._with_bos(self._ids(self.prompt_text(messages)))

    def pair(self, pair: PreferencePair) -> TokenizedPair:
        """BadRowError where the prompt leaves no room or the two responses are the same after cutting."""
        prompt = self.prompt(pair.prompt)
        room = self.max_length - len(prompt)
        if room < 1:
            raise BadRowError("prompt longer than max_length")
        chosen, rejected = (self._cut(self._response(text), room) for text in (pair.chosen, pair.rejected))
        if chosen == rejected:
            raise BadRowError("chosen equals rejected after truncation")
        return TokenizedPair(prompt, chosen, rejected)

    def example(self, messages: Messages) -> TokenizedExample:
        """A whole conversation; every assistant turn is scored."""
        tokens: list[int] = []
        scored: list[bool] = []
        consumed = ""
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            text = self._render(messages[:index], True)
            if not text.startswith(consumed):
                raise BadRowError("the chat template rewrites earlier turns")
            context = self._ids(text[len(consumed) :])
            context = context if tokens else self._with_bos(context)
            answer = self._response(message["content"])
            tokens += context + answer
            scored += [False] * len(context) + [True] * len(answer)
            consumed = self._after_answer(text, messages[: index + 1])
        if len(tokens) > self.max_length:
            self.notes["conversations cut at max_length"] += 1
            tokens, scored = tokens[: self.max_length], scored[: self.max_length]
        if not any(scored[1:]):
            raise BadRowError("prompt longer than max_length")
        return TokenizedExample(tokens, scored)

    def _after_answer(self, context: str, messages: Messages) -> str:
        """The rendered text up to where EOS has just been said, so that EOS is not tokenized twice."""
        text = self._render(messages, False)
        eos = self.tokenizer.eos_token
        end = text.find(eos, len(context))
        if end >= 0:
            return text[: end + len(eos)]
        return text

    def _render(self, messages: Messages, add_generation_prompt: bool) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # a template is a program of its own and may raise anything
            raise BadRowError(f"the chat template refuses the conversation: {first_line(error)}") from None
        return text

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _with_bos(self, ids: list[int]) -> list[int]:
        if self.bos is None:
            return ids
        return [self.bos, *(token for token in ids if token != self.bos)]

    def _response(self, text: str) -> list[int]:
        ids = self._ids(text)
        kept = [token for token in ids if token not in (self.bos, self.eos)]
        if len(kept) < len(ids):
            self.notes["responses with BOS or EOS inside, removed"] += 1
        if not kept:
            raise BadRowError("empty response")
        return [*kept, self.eos]

    def _cut(self, ids: list[int], room: int) -> list[int]:
        if len(ids) > room:
            self.notes["responses cut at max_length"] += 1
        return ids[:room]
