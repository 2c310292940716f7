"""The prepare stage: sources in, tokenized tables, rejects and a data report out."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from raydaa.artifacts import file_hash, key_of, make_folder, write_json, write_text
from raydaa.data import pocket
from raydaa.data.sources import (
    BadRowError,
    DataError,
    Messages,
    PreferencePair,
    Reject,
    Rows,
    conversation,
    is_transcript,
    messages_of,
    preference_pair,
    read_rows,
)
from raydaa.data.tokenize import Encoder
from raydaa.records import EXAMPLES, PAIRS, PROMPTS, write
from raydaa.settings import DataSettings, PocketSettings, StudySettings

POCKET = "pocket"
CHOSEN = "preferences.chosen"
HELD_OUT = "preferences.validation"
TOKENIZER_FILES = ("tokenizer*", "*.model", "vocab*", "merges*", "special_tokens*", "chat_template*", "added_tokens*")
T = TypeVar("T")
VERSION = 1  # of the tables' content; raise it when the same input gives other tables


class TooManyRejectsError(DataError):
    """More rows than `data.max_rejected_share` can't be used."""

    def __init__(self, message: str, rejects: list[tuple[str, Reject]]) -> None:
        super().__init__(message)
        self.rejects = rejects


@dataclass
class Inputs:
    """What the stage reads, opened once: the sources' rows and the key of everything the tables depend on."""

    train: Rows
    validation: Rows | None  # None: a share of train
    sft: Rows | None
    prompts: Rows | None
    key: str = ""


@dataclass
class Outcome:
    """Rejects by table and what was cut, gathered while the tables are made."""

    rejects: list[tuple[str, Reject]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


def tokenizer_hash(folder: Path) -> str:
    """Identity of a tokenizer with its chat template."""
    files = {path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()}
    return key_of(files={path.name: file_hash(path) for path in sorted(files)})


def open_inputs(settings: StudySettings, tokenizer_folder: Path) -> Inputs:
    """Read every source of the study; DataError where one is missing, empty, or lacks a column."""
    data, world = settings.data, settings.pocket
    preferences = data.preferences
    train = _rows(preferences.source, preferences.train, world, "train")
    validation = None
    if preferences.source == POCKET:
        validation = _rows(POCKET, "", world, "validation")
    elif isinstance(preferences.validation, str):
        validation = read_rows(preferences.source, preferences.validation)
    needed = _columns(preferences.columns, "prompt", "chosen", "rejected")
    for rows in (train, validation):
        if rows is not None:
            rows.require([needed["chosen"], needed["rejected"]])
            first = rows.rows[0][1]
            alone = isinstance(first[needed["chosen"]], str) and not is_transcript(first[needed["chosen"]])
            if alone:  # a bare answer: its prompt must stand in a column of its own
                rows.require([needed["prompt"]])
    sft = None
    if data.sft is not None and data.sft.source != CHOSEN:
        sft = _rows(data.sft.source, data.sft.split, world, "sft")
        names = _columns(data.sft.columns, "messages", "prompt", "response")
        if not sft.rows or names["messages"] not in sft.rows[0][1]:
            sft.require([names["prompt"], names["response"]])
    prompts = None
    if data.prompts.source != HELD_OUT:
        prompts = _rows(data.prompts.source, data.prompts.split, world, "prompts")
        prompts.require([_columns(data.prompts.columns, "prompt")["prompt"]])
    inputs = Inputs(train, validation, sft, prompts)
    inputs.key = key_of(
        version=VERSION,
        sources=[rows.fingerprint if rows else None for rows in (train, validation, sft, prompts)],
        tokenizer=tokenizer_hash(tokenizer_folder),
        data=data.model_dump(mode="json", exclude={"max_rejected_share": True, "preferences": {"source", "fraction"}}),
    )
    return inputs


def prepare(inputs: Inputs, data: DataSettings, tokenizer: Any, folder: Path) -> bool:
    """Make ``folder`` with train, validation, sft and prompts tables; True when it was not there yet."""
    return make_folder(folder, lambda temporary: _fill(temporary, inputs, data, tokenizer))


def _rows(source: str, split: str, world: PocketSettings, part: str) -> Rows:
    if source != POCKET:
        return read_rows(source, split)
    rows = pocket.rows(world, part)
    return Rows(POCKET, key_of(rows=rows), list(enumerate(rows, start=1)))


def _columns(mapped: dict[str, str], *names: str) -> dict[str, str]:
    for name in mapped:
        if name not in names:
            raise DataError(f"columns: {name!r} is not a field of this source; choose from {', '.join(names)}")
    return {name: mapped.get(name, name) for name in names}


def _fill(folder: Path, inputs: Inputs, data: DataSettings, tokenizer: Any) -> None:
    encoder = Encoder(tokenizer, data.max_length)
    outcome = Outcome()
    names = _columns(data.preferences.columns, "prompt", "chosen", "rejected")
    pairs = _usable(inputs.train, "train", lambda row: preference_pair(row, names), outcome)
    if inputs.validation is not None:
        held_out = _usable(inputs.validation, "validation", lambda row: preference_pair(row, names), outcome)
    else:
        assert isinstance(data.preferences.validation, float)
        pairs, held_out = _split_by_prompt(pairs, data.preferences.validation)
    counts = {
        "train": _write_pairs(folder / "train.parquet", "train", pairs, encoder, outcome),
        "validation": _write_pairs(folder / "validation.parquet", "validation", held_out, encoder, outcome),
    }
    if data.sft is not None:
        counts["sft"] = _write_examples(folder / "sft.parquet", inputs, data, pairs, encoder, outcome)
    _refuse(counts, inputs, data, outcome)
    counts["prompts"] = _write_prompts(folder / "prompts.parquet", inputs, data, held_out, encoder, outcome)
    write_text(folder / "rejects.jsonl", rejects_text(outcome.rejects))
    reasons = Counter(f"{table}: {reject.reason}" for table, reject in outcome.rejects)
    write_json(
        folder / "report.json",
        {"rows": counts, "rejected": dict(reasons.most_common()), "notes": dict(encoder.notes)},
    )


def _refuse(counts: dict[str, int], inputs: Inputs, data: DataSettings, outcome: Outcome) -> None:
    """TooManyRejectsError where too little of a table is usable."""
    for table, rows in (("train", inputs.train), ("validation", inputs.validation), ("sft", inputs.sft)):
        if rows is not None:
            _check_share(rows, [r for name, r in outcome.rejects if name == table], data.max_rejected_share, outcome)
    for table, remedy in (
        ("train", "pairs"),
        ("validation", "pairs; raise data.preferences.validation"),
        ("sft", "examples"),
    ):
        if counts.get(table) == 0:
            raise TooManyRejectsError(f"{inputs.train.source}: {table} has no usable {remedy}", outcome.rejects)


def rejects_text(rejects: Iterable[tuple[str, Reject]]) -> str:
    """Rejects as JSON lines: table, row number, reason."""
    lines = ({"table": table, "row": reject.row, "reason": reject.reason} for table, reject in rejects)
    return "".join(json.dumps(line) + "\n" for line in lines)


def _usable(rows: Rows, table: str, parse: Callable[[dict[str, Any]], T], outcome: Outcome) -> list[tuple[int, T]]:
    outcome.rejects += [(table, reject) for reject in rows.rejects]
    found = []
    for number, row in rows.rows:
        try:
            found.append((number, parse(row)))
        except BadRowError as error:
            outcome.rejects.append((table, Reject(number, str(error))))
    return found


def _hash_share(messages: Messages) -> float:
    """A number in [0, 1) that depends on the prompt alone."""
    digest = hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _split_by_prompt(
    pairs: list[tuple[int, PreferencePair]], share: float
) -> tuple[list[tuple[int, PreferencePair]], list[tuple[int, PreferencePair]]]:
    """All pairs of a prompt go to the same side, so held-out prompts were never trained on."""
    held_out = [pair for pair in pairs if _hash_share(pair[1].prompt) < share]
    return [pair for pair in pairs if _hash_share(pair[1].prompt) >= share], held_out


def _write_pairs(
    path: Path, table: str, pairs: list[tuple[int, PreferencePair]], encoder: Encoder, outcome: Outcome
) -> int:
    rows = []
    for number, pair in pairs:
        try:
            ids = encoder.pair(pair)
        except BadRowError as error:
            outcome.rejects.append((table, Reject(number, str(error))))
            continue
        rows.append(
            {
                "pair_id": number,
                "prompt_tokens": ids.prompt,
                "chosen_tokens": ids.chosen,
                "rejected_tokens": ids.rejected,
            }
        )
    write(path, rows, PAIRS)
    return len(rows)


def _write_examples(
    path: Path,
    inputs: Inputs,
    data: DataSettings,
    pairs: list[tuple[int, PreferencePair]],
    encoder: Encoder,
    outcome: Outcome,
) -> int:
    assert data.sft is not None
    if inputs.sft is None:
        conversations = [(n, [*p.prompt, {"role": "assistant", "content": p.chosen}]) for n, p in pairs]
    else:
        names = _columns(data.sft.columns, "messages", "prompt", "response")
        conversations = _usable(inputs.sft, "sft", lambda row: conversation(row, names), outcome)
    rows = []
    for number, messages in conversations:
        try:
            example = encoder.example(messages)
        except BadRowError as error:
            outcome.rejects.append(("sft", Reject(number, str(error))))
            continue
        rows.append({"example_id": number, "tokens": example.tokens, "scored": example.scored})
    write(path, rows, EXAMPLES)
    return len(rows)


def _write_prompts(
    path: Path,
    inputs: Inputs,
    data: DataSettings,
    held_out: list[tuple[int, PreferencePair]],
    encoder: Encoder,
    outcome: Outcome,
) -> int:
    candidates: list[tuple[Messages, str | None]] = [(pair.prompt, pair.chosen) for _, pair in held_out]
    if inputs.prompts is not None:
        column = _columns(data.prompts.columns, "prompt")["prompt"]
        parsed = _usable(inputs.prompts, "prompts", lambda row: messages_of(row.get(column)), outcome)
        candidates = [(messages, None) for _, messages in parsed]
    rows: dict[str, dict[str, Any]] = {}
    for messages, chosen in candidates:
        name = key_of(prompt=messages)
        ids = encoder.prompt(messages)
        if name not in rows and len(ids) < data.max_length and len(rows) < data.prompts.num:
            text = encoder.prompt_text(messages)
            question = messages[-1]["content"]
            rows[name] = {
                "prompt_id": name,
                "question": question,
                "prompt": text,
                "prompt_tokens": ids,
                "chosen": chosen,
            }
    if not rows:
        raise DataError(f"{data.prompts.source}: no usable prompt is left")
    write(path, list(rows.values()), PROMPTS)
    return len(rows)


def _check_share(rows: Rows, rejects: list[Reject], allowed: float, outcome: Outcome) -> None:
    total = len(rows.rows) + len(rows.rejects)
    if len(rejects) <= allowed * total:
        return
    reasons = Counter(reject.reason for reject in rejects).most_common(3)
    why = ", ".join(f"{reason}: {count}" for reason, count in reasons)
    first = ", ".join(str(reject.row) for reject in sorted(rejects, key=lambda r: r.row)[:5])
    raise TooManyRejectsError(
        f"{rows.source}: {len(rejects)} of {total} rows can't be used ({why}; first rows: {first}); "
        f"mend them or raise data.max_rejected_share ({allowed})",
        outcome.rejects,
    )
