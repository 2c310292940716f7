"""How a tokenizer's chat template speaks: the prompt, an answer in its context, and the token that ends a turn."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from raydaa.data.sources import THOUGHTS, BadRowError, Message, Messages, Tools
from raydaa.data.template import has_bos, rendering
from raydaa.errors import first_line

MARK, NEXT = "raydaa", "aadyar"  # texts that no template changes, and no template says by itself
ASKED = {"role": "user", "content": "?"}
SYSTEM = {"role": "system", "content": "."}
TOOL = {"type": "function", "function": {"name": "any", "description": ".", "parameters": {"type": "object"}}}
CALL = {"type": "function", "id": "call00000", "function": {"name": MARK, "arguments": {}}}
_THOUGHT = re.compile(r"<(\w*think\w*|thought|reasoning)>\s*$|\[(THINK)\]\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class TurnEnd:
    """How an assistant's turn ends.

    ``token`` is the id, ``text`` what the template says from the end of the answer up to and including it (None where
    the template says it only when somebody else speaks, or never: then the id is appended), ``rest`` what it says
    after it.
    """

    token: int
    text: str | None
    rest: str


class ChatFormat:
    """The chat template of one tokenizer, as text; `Encoder` makes ids of it."""

    def __init__(self, tokenizer: Any, tools: Tools = None) -> None:
        """``tools``: of the conversations; a tokenizer may have another template for those that have any."""
        self.tokenizer = tokenizer
        self.tools = tools
        self.added: dict[int, str] = {token: str(text) for token, text in tokenizer.added_tokens_decoder.items()}
        self.added |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        answered = [ASKED, {"role": "assistant", "content": MARK}]
        self.before: Messages = []  # what a template wants to be said first
        self.in_parts = False
        if self._probe(answered) is None and self._probe([SYSTEM, *answered]) is not None:
            self.before = [SYSTEM]
        self.in_parts = False  # whether the template reads a message's text from a list of parts alone
        if MARK not in (self._probe(answered) or ""):
            self.in_parts = True
            self.in_parts = MARK in (self._probe(answered) or "")
        self.end = self._turn_end(answered[-1], {"role": "user", "content": NEXT})
        self.call_end = self._call_end()
        prompt = self._probe([ASKED], True) or ""
        self.thought = _THOUGHT.search(prompt)  # a thinking block that the prompt opens
        whole = self._probe(answered) or ""
        # What the model says before its answer, as a channel or an empty thought.
        self.lead = whole[len(prompt) : whole.rfind(MARK)] if whole.startswith(prompt) else ""

    def render(self, messages: Messages, tools: Tools, add_generation_prompt: bool) -> str:
        """The template's text; BadRowError where it refuses the conversation."""
        try:
            return rendering(self.tokenizer, messages, tools, add_generation_prompt, self.in_parts)
        except Exception as error:
            raise BadRowError(f"the chat template refuses the conversation: {first_line(error)}") from None

    def _probe(self, messages: Messages, add_generation_prompt: bool = False) -> str | None:
        """None where the template refuses them."""
        try:
            return self.render([*self.before, *messages], self.tools, add_generation_prompt)
        except BadRowError:
            return None

    @property
    def without_thought(self) -> str:
        """How to have a template that opens thinking blocks leave them out."""
        known = self.tokenizer.chat_template
        text = known if isinstance(known, str) else json.dumps(known)
        for name in ("enable_thinking", "thinking"):
            if re.search(rf"\b{name}\b", text):
                return f"data.chat_template.arguments: {{{name}: false}}"
        return "data.chat_template.file: a template without it"

    def reply(self, messages: Messages, answer: Message, tools: Tools, prompt: str) -> tuple[str, int | None]:
        """What the model says after ``prompt`` up to the end of its turn, and the id to append where it isn't said.

        ``prompt`` is the rendering of ``messages``. The reply is the template's own, where that goes on from the
        prompt; where the prompt opens what the template then leaves out, it is the answer and the end of the turn.
        """
        whole = self.render([*messages, answer], tools, False)
        end = self.call_end if answer.get("tool_calls") else self.end
        whole, token = self._cut(whole, end)
        if whole.startswith(prompt):
            reply_text = whole[len(prompt) :]
        else:
            reply_text = self._apart(whole, self._with_thought(answer), end, prompt)
        for call in answer.get("tool_calls") or []:
            name = (call.get("function") or call).get("name", "")
            if name not in reply_text:
                raise BadRowError("the chat template leaves the answer's tool calls out")
        return reply_text, token

    def _with_thought(self, answer: Message) -> str:
        """An answer's text after its thought, where the prompt opens one that stands in a field of its own."""
        content = answer.get("content") or ""
        thought = next((answer[name] for name in THOUGHTS if answer.get(name)), None)
        if self.thought is None or not isinstance(thought, str):
            return content
        opened = self.thought[0].strip()
        closed = opened.replace("<", "</", 1).replace("[", "[/", 1)
        return f"{thought}\n{closed}\n\n{content}"

    def _apart(self, whole: str, content: str, end: TurnEnd, prompt: str) -> str:
        """The reply in a rendering that does not go on from the prompt: the answer and what the template adds to it."""
        opened = "" if self.thought is None else self.thought[0].strip()
        closed = opened.replace("<", "</", 1).replace("[", "[/", 1)
        if opened and closed in content:  # with or without its opening, as models give it back
            return content.lstrip().removeprefix(opened).lstrip("\n") + (end.text or "")
        agreed = len(_shared(whole, prompt))
        if not prompt[agreed:].strip():  # the prompt has a line break more
            return whole[agreed:]
        for answer in (content, content.strip(), content.rpartition("</think>")[2].strip()):
            start = whole.rfind(answer, agreed, len(whole) - len(end.text or "")) if answer else -1
            if start >= 0:
                lead = self.lead if self.lead.isspace() and whole[:start].endswith(self.lead) else ""
                return lead + whole[start:]
        if not content:  # a call alone: what stands after the last token that both have
            both = [start for _, start in self._added_in(whole) if start <= agreed]
            return whole[both[-1] if both else agreed :]
        raise BadRowError("the chat template does not say the answer")

    def _cut(self, whole: str, end: TurnEnd) -> tuple[str, int | None]:
        """A rendered conversation up to the end of its last turn."""
        if end.text is None:
            return whole.removesuffix(end.rest), end.token
        if whole.endswith(end.text + end.rest):
            return whole[: len(whole) - len(end.rest)], None
        last = self.added[end.token]
        before, separator, _ = whole.rpartition(last)
        return (before + separator, None) if separator else (whole, end.token)

    def _turn_end(self, answer: Message, other: Message) -> TurnEnd:
        """Where the template ends ``answer``, found from what it says after it alone, and before ``other``'s turn."""
        alone = self._after_mark([ASKED, answer])
        followed = self._after_mark([ASKED, answer, other])
        if alone is None:
            return TurnEnd(self.tokenizer.eos_token_id, None, "")
        before_next = alone if followed is None else followed.partition(NEXT)[0]
        shared = _shared(alone, before_next)
        call = "tool_calls" in answer
        # A turn may end with several tokens (Cohere 2), and a text with one that is not the turn's (Phi-3).
        places = self._added_in(shared)[-1:] or (self._added_in(alone)[-1:] if call else self._added_in(alone)[:1])
        if call and self.end.text is None:
            places = []  # what stands last closes the call
        for token, end in places:
            return TurnEnd(token, alone[:end], alone[end:])
        # Nothing ends it but the next one's beginning (GLM).
        bos = self.tokenizer.bos_token_id if has_bos(self.tokenizer) else None
        begins = [token for token, _ in self._added_in(before_next[len(shared) :]) if token != bos]
        return TurnEnd((begins or [self.tokenizer.eos_token_id])[0], None, "" if call else alone)

    def _call_end(self) -> TurnEnd:
        """As `_turn_end`, of a turn that calls a tool."""
        response = {"role": "tool", "name": MARK, "tool_call_id": CALL["id"], "content": NEXT}
        for content in ("", None):
            call = {"role": "assistant", "content": content, "tool_calls": [CALL]}
            if self._after_mark([ASKED, call]) is not None:
                return self._turn_end(call, response)
        return self.end

    def _after_mark(self, messages: Messages) -> str | None:
        _, mark, after = (self._probe(messages) or "").partition(MARK)
        return after if mark else None

    def _added_in(self, text: str) -> list[tuple[int, int]]:
        """Added tokens in a text, each with the place where it ends."""
        added = []
        for token, written in self.added.items():
            added += [(match.end(), token) for match in re.finditer(re.escape(written), text)]
        return [(token, end) for end, token in sorted(added)]

    def stops(self, more: Iterable[int] = ()) -> tuple[int, ...]:
        """Every id that ends a turn: the template's, the tokenizer's, and ``more``."""
        ends = {self.end.token, self.tokenizer.eos_token_id, *more}
        if self.call_end.text is None:
            ends.add(self.call_end.token)
        return tuple(sorted(ends))

    def answer(self, tokens: Sequence[int], stops: Iterable[int]) -> str:
        """The text of a generated response: without what ends it, and without what the template says before it."""
        tokens = list(tokens)
        if tokens and tokens[-1] in set(stops):
            tokens.pop()
        lead = list(self.tokenizer(self.lead.strip(), add_special_tokens=False)["input_ids"]) if self.lead else []
        for start in range(len(tokens) - len(lead), -1, -1):
            if lead and tokens[start : start + len(lead)] == lead:
                return str(self.tokenizer.decode(tokens[start + len(lead) :], skip_special_tokens=True)).lstrip()
        text = str(self.tokenizer.decode(tokens, skip_special_tokens=True))
        return text.removeprefix(self.lead) if self.lead.isspace() else text


def turn_ends(tokenizer: Any, known: int | Sequence[int] | None) -> tuple[int, ...]:
    """`ChatFormat.stops` of conversations with tools and without, and those that a generation config names."""
    more = [known] if isinstance(known, int) else known or ()
    return ChatFormat(tokenizer, [TOOL]).stops(ChatFormat(tokenizer).stops(more))


def _shared(one: str, other: str) -> str:
    """What two texts begin with alike."""
    for length, (ours, theirs) in enumerate(zip(one, other, strict=False)):
        if ours != theirs:
            return one[:length]
    return min(one, other, key=len)
