"""Parsed rows to tokenized tables; what can't be used becomes a reject with its reason."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from raydaa.data.batches import subset
from raydaa.data.parsing import SPLIT
from raydaa.data.rows import Reject, Rows
from raydaa.data.sources import BadRowError, Conversation, Messages, PreferencePair, Tools, text_of
from raydaa.data.tokenize import Encoder, TokenizedExample
from raydaa.store.artifacts import key_of, write_json, write_text
from raydaa.store.plain import to_plain
from raydaa.store.records import DataReport
from raydaa.store.tables import EXAMPLES, PAIRS, PREPARED_REJECTS, PREPARED_REPORT, PROMPTS, write

T = TypeVar("T")
Numbered = Sequence[tuple[int, T]]


@dataclass
class RowCounts:
    """What happened to the rows of each table: how many were read, kept and rejected, and what was cut."""

    read: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    rejects: dict[str, list[Reject]] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    unread: dict[str, list[str]] = field(default_factory=dict)  # columns that no row was read from

    def reject(self, table: str, row: int, reason: str) -> None:
        """Row ``row`` of the source of ``table`` can't be used."""
        self.rejects.setdefault(table, []).append(Reject(row, reason))

    def save(self, folder: Path) -> None:
        """``rejects.jsonl`` and ``report.json``."""
        lines = [
            {"table": table, "row": reject.row, "reason": reject.reason}
            for table, rejects in self.rejects.items()
            for reject in sorted(rejects, key=lambda r: r.row)
        ]
        write_text(folder / PREPARED_REJECTS, "".join(json.dumps(line) + "\n" for line in lines))
        reasons = Counter(f"{line['table']}: {line['reason']}" for line in lines)
        report = DataReport(self.read, self.rows, dict(reasons.most_common()), dict(self.notes), self.unread)
        write_json(folder / PREPARED_REPORT, to_plain(report))


class _Observed(dict[str, Any]):
    """A row that notes which of its columns are looked into."""

    def __init__(self, row: dict[str, Any], seen: set[str]) -> None:
        super().__init__(row)
        self.seen = seen

    def __getitem__(self, name: str) -> Any:
        self.seen.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.seen.add(name)
        return super().get(name, default)


def parsed(rows: Rows, table: str, parse: Callable[[dict[str, Any]], T], counts: RowCounts) -> list[tuple[int, T]]:
    """Every row that ``parse`` accepts, with its row number."""
    counts.read[table] = len(rows.rows) + len(rows.rejects)
    for reject in rows.rejects:
        counts.reject(table, reject.row, reject.reason)
    seen: set[str] = set()
    kept = _kept(rows.rows, table, lambda row: parse(_Observed(row, seen)), counts)
    unread = [name for name in rows.columns if name not in seen and not (name == SPLIT and rows.by_split)]
    if unread:
        counts.unread[table] = unread
    return kept


def _kept(rows: Numbered[Any], table: str, make: Callable[[Any], T], counts: RowCounts) -> list[tuple[int, T]]:
    kept = []
    for number, row in rows:
        try:
            kept.append((number, make(row)))
        except BadRowError as error:
            counts.reject(table, number, str(error))
    return kept


def split_by_prompt(
    pairs: Numbered[PreferencePair], share: float
) -> tuple[list[tuple[int, PreferencePair]], list[tuple[int, PreferencePair]]]:
    """Train and held-out pairs: all pairs of a prompt go to the same side, so held-out prompts are never trained on."""
    held_out = [pair for pair in pairs if _hash_share(pair[1]) < share]
    return [pair for pair in pairs if _hash_share(pair[1]) >= share], held_out


def each_once(table: str, pairs: Numbered[PreferencePair], counts: RowCounts) -> list[tuple[int, PreferencePair]]:
    """The pairs without those that stand in the table already."""
    kept = _firsts(pairs, lambda pair: _text(pair, pair.chosen, pair.rejected))
    counts.notes[f"{table}: the same pair once more, left out"] += len(pairs) - len(kept)
    return kept


def uniquely_preferred(
    table: str, pairs: Numbered[PreferencePair], counts: RowCounts
) -> list[tuple[int, PreferencePair]]:
    """One pair for each chosen response to a prompt, and none for a response that another pair rejects."""
    rejected = {_text(pair, pair.rejected) for _, pair in pairs}
    chosen = _firsts(pairs, lambda pair: _text(pair, pair.chosen))
    kept = [(number, pair) for number, pair in chosen if _text(pair, pair.chosen) not in rejected]
    counts.notes[f"{table}: not uniquely preferred, left out"] += len(pairs) - len(kept)
    return kept


def _firsts(pairs: Numbered[PreferencePair], text: Callable[[PreferencePair], str]) -> list[tuple[int, PreferencePair]]:
    """Of pairs with the same ``text`` the first."""
    firsts: dict[str, tuple[int, PreferencePair]] = {}
    for number, pair in pairs:
        firsts.setdefault(text(pair), (number, pair))
    return list(firsts.values())


def _text(pair: PreferencePair, *responses: Any) -> str:
    """A pair's prompt with responses, as one thing to compare."""
    return json.dumps([_asked(pair.prompt, pair.tools), *responses], sort_keys=True)


def _asked(messages: Messages, tools: Tools) -> Any:
    """A prompt with its tools, as one thing to compare."""
    return messages if tools is None else {"messages": messages, "tools": tools}


def _hash_share(pair: PreferencePair) -> float:
    """A number in [0, 1) that depends on the prompt alone."""
    digest = hashlib.sha256(json.dumps(_asked(pair.prompt, pair.tools), sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def write_pairs(path: Path, table: str, pairs: Numbered[PreferencePair], encoder: Encoder, counts: RowCounts) -> None:
    """Preference pairs as token ids."""
    rows = [
        {"pair_id": n, "prompt_tokens": p.prompt, "chosen_tokens": p.chosen, "rejected_tokens": p.rejected}
        for n, p in _kept(pairs, table, encoder.pair, counts)
    ]
    counts.rows[table] = len(rows)
    write(path, rows, PAIRS)


def write_examples(
    path: Path, parts: Sequence[tuple[str, Numbered[Conversation], float]], encoder: Encoder, counts: RowCounts
) -> None:
    """SFT conversations as token ids with the scored ones marked: of each part as many as its weight says."""

    def encoded(talk: Conversation) -> list[TokenizedExample]:
        return encoder.examples(talk.messages, talk.tools)

    rows = []
    for table, conversations, weight in parts:
        examples = [
            {"example_id": number, "tokens": example.tokens, "scored": example.scored}
            for number, several in _kept(conversations, table, encoded, counts)
            for example in several
        ]
        rows += examples * int(weight)
        if examples and weight % 1:
            rows += [examples[i] for i in subset(len(examples), weight % 1)]
    counts.rows["sft"] = len(rows)
    write(path, rows, EXAMPLES)


@dataclass(frozen=True)
class Candidate:
    """A prompt, the response that stands beside it, and what its source calls it."""

    messages: Messages
    response: str | None = None
    question_id: str | None = None
    tools: Tools = None


def _question(messages: Messages) -> str:
    """What the answer is to, as text: a user's turn alone as it is, a conversation with its roles."""
    if len(messages) == 1:
        return text_of(messages[0])
    return "\n\n".join(f"{message['role'].capitalize()}: {text_of(message)}" for message in messages)


def write_prompts(
    path: Path, table: str, candidates: Numbered[Candidate], num: int, encoder: Encoder, counts: RowCounts
) -> None:
    """The first ``num`` distinct prompts, each with the response that stands beside it where there is one."""

    def make(candidate: Candidate) -> dict[str, Any]:
        messages = candidate.messages
        ids = encoder.prompt(messages, candidate.tools)
        if len(ids) >= encoder.max_length:
            raise BadRowError("prompt longer than max_length")
        return {
            "prompt_id": key_of(prompt=_asked(messages, candidate.tools)),
            "question_id": candidate.question_id,
            "question": _question(messages),
            "messages": json.dumps(messages, ensure_ascii=False),
            "prompt": encoder.prompt_text(messages, candidate.tools),
            "prompt_tokens": ids,
            "chosen": candidate.response,
        }

    rows: dict[str, dict[str, Any]] = {}
    for candidate in candidates:
        if len(rows) == num:
            break
        for number, row in _kept([candidate], table, make, counts):
            rows.setdefault(row["prompt_id"], {"row": number, **row})
    counts.rows[table] = len(rows)
    write(path, list(rows.values()), PROMPTS)
