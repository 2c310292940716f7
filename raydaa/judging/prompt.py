"""What a language model is asked when it judges, and how its answer is read: the files in ``prompts/``."""

import html
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from raydaa.evaluation.arena_hard import DEGREES, read_verdict

_FIELD = re.compile(r"\{(prompt|first|second)\}")
# Markdown, HTML, TeX or quotation marks around a verdict are none of its words.
_TAG = re.compile(r"</?(?:b|strong|i|em|u|p|br|hr|li|ul|ol|div|span|code|pre|mark|h\d|td|tr|th|table)\b[^<>\n]*>")
_TEX = r"(?:(?:boxed|text|textbf|mathbf|mathrm)[\W_]*)*"
_MARKS = r"(?:[^\w\n]|_)*"
_LISTED = rf"(?:[/|&]|\b(?:or|and|vs)\b|,(?={_MARKS}[ABC]{_MARKS}\bor\b))"
_ONE = rf"([ABC])(?![A-Za-z0-9])(?!{_MARKS}{_LISTED}{_MARKS}[ABC](?![A-Za-z0-9]))"  # and not several
_WINNER = re.compile(
    rf"^{_MARKS}{_TEX}(?:Winner|WINNER){_MARKS}[:：|][\W_]*{_TEX}(?:(?:Summary|Response|Assistant|Option)[\W_]+)?"
    + _ONE,
    re.MULTILINE,
)
# As models mark their thoughts; some have channels of their own.
_BEGINS = r"(?:<(?:\w+:)?(?:think|thinking|thought|reasoning)\s*>|\[THINK\]|◁think▷|<\|begin_of_thought\|>)"
_ENDS = r"(?:</(?:\w+:)?(?:think|thinking|thought|reasoning)\s*>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>)"
_THOUGHT = re.compile(f"{_BEGINS}.*?{_ENDS}", re.DOTALL | re.IGNORECASE)
_CLOSED = re.compile(_ENDS, re.IGNORECASE)
_OPEN = re.compile(rf"{_BEGINS}|<\|channel\|>analysis(?!.*<\|channel\|>final)", re.DOTALL | re.IGNORECASE)
WINNERS = {"A": 1.0, "B": 0.0, "C": 0.5}
LABELS = ("m", "M")  # of the first response and the second


@dataclass(frozen=True)
class Answer:
    """What a judge wrote, the log-probabilities of the likeliest first tokens where they were asked for, and whether
    it was cut at a limit."""

    text: str
    first_token: Sequence[tuple[str, float]] = ()
    cut: bool = False

    @property
    def verdict(self) -> str:
        """What it says after its thoughts; nothing where it was cut, or is still thinking."""
        if self.cut:
            return ""
        answer = _THOUGHT.sub("", self.text)
        answer = _CLOSED.split(answer)[-1]  # a thought that the prompt had opened
        return "" if _OPEN.search(answer) else answer


@dataclass(frozen=True)
class ParsedVerdict:
    """How good the first response is against the second, in [0, 1], and what the game weighs."""

    outcome: float
    weight: float = 1.0


@dataclass(frozen=True)
class JudgePrompt:
    """A judge prompt: its version is part of every verdict's key."""

    name: str
    version: int
    answer: str
    system: str
    user: str

    def messages(self, prompt: str, first: str, second: str) -> list[dict[str, str]]:
        """The chat that is sent; what stands in braces inside a response stays as it is."""
        values = {"prompt": prompt, "first": first, "second": second}
        user = _FIELD.sub(lambda field: values[field[1]], self.user)
        return [{"role": "system", "content": self.system}, {"role": "user", "content": user}]

    @property
    def by_token(self) -> bool:
        """Whether the answer is one token, read from its log-probabilities."""
        return self.answer == "token"

    @property
    def by_degree(self) -> bool:
        """Whether the answer says by how much a response is better."""
        return self.answer == "degrees"

    def read(self, answer: Answer) -> ParsedVerdict | None:
        """What the judge said; None where it can't be read."""
        return _READERS[self.answer](answer)


@cache
def judge_prompt(name: str) -> JudgePrompt:
    """The prompt ``name``; KeyError where there is none."""
    file = files("raydaa.judging") / "prompts" / f"{name}.yaml"
    if not file.is_file():
        raise KeyError(name)
    return JudgePrompt(name=name, **yaml.safe_load(file.read_text(encoding="utf-8")))


def _token(answer: Answer) -> ParsedVerdict | None:
    """e^{l_m} / (e^{l_m} + e^{l_M}); a label that is not among the likeliest tokens counts 0."""
    shares = dict.fromkeys(LABELS, 0.0)
    for token, logp in answer.first_token:
        if token.strip() in shares:
            shares[token.strip()] += math.exp(logp)
    total = sum(shares.values())
    return ParsedVerdict(shares[LABELS[0]] / total) if total > 0 else None


def _degrees(answer: Answer) -> ParsedVerdict | None:
    verdict = read_verdict(answer.verdict)
    return None if verdict is None else ParsedVerdict(*DEGREES[verdict])


def _winner(answer: Answer) -> ParsedVerdict | None:
    winners = _WINNER.findall(_TAG.sub("", html.unescape(answer.verdict)))
    return ParsedVerdict(WINNERS[winners[-1]]) if winners else None


_READERS: dict[str, Callable[[Answer], ParsedVerdict | None]] = {
    "token": _token,
    "degrees": _degrees,
    "winner": _winner,
}
