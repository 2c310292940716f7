"""The prepare stage: sources in, tokenized tables out, each kept under a key of what it depends on."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raydaa.data.files import DataError, Rows, names_files, read_rows
from raydaa.data.sources import (
    CONTEXT_COLUMNS,
    Conversation,
    PreferencePair,
    as_message,
    conversation,
    is_alpaca,
    is_transcript,
    preference_pair,
    prompt_of,
    text_of,
)
from raydaa.data.tables import (
    Candidate,
    Tally,
    each_once,
    parsed,
    split_by_prompt,
    uniquely_preferred,
    write_examples,
    write_pairs,
    write_prompts,
)
from raydaa.data.tokenize import Encoder
from raydaa.pocket import world as pocket
from raydaa.settings.data import (
    HELD_OUT,
    PREFERRED,
    DataSettings,
    PocketSettings,
    PreferenceSource,
    PromptSource,
    SftSource,
)
from raydaa.settings.study import StudySettings
from raydaa.store.artifacts import key_of, make_folder, read_json, tokenizer_hash
from raydaa.store.plain import from_plain
from raydaa.store.records import DataReport
from raydaa.store.tables import PREPARED_REJECTS, PREPARED_REPORT

POCKET = "pocket"
PROMPT_FIELDS = ("prompt", "response", "question_id")
VERSION = 5  # of the tables' content; raise it when the same input gives other tables


class TooManyRejectsError(DataError):
    """More rows than `data.max_rejected_share` can't be used, or none can; ``rejects`` lists them as JSON lines."""

    def __init__(self, message: str, rejects: str) -> None:
        super().__init__(message)
        self.rejects = rejects


@dataclass(frozen=True)
class Inputs:
    """The sources' rows, read once, and the key of each group of tables (``pairs``, ``sft``, ``prompts``, …)."""

    train: Rows
    validation: Rows | None  # None: a share of train's prompts
    sft: tuple[Rows | None, ...]  # in the order of the mixture; None: train's chosen responses
    prompts: dict[str, tuple[PromptSource, Rows | None]]  # by group; None: the held-out pairs' prompts
    keys: dict[str, str]


def open_inputs(settings: StudySettings, tokenizer_folder: Path) -> Inputs:
    """Read every source of the study; DataError where one is missing, empty, or lacks a column."""
    data, world = settings.data, settings.pocket
    train, validation = _open_pairs(data.preferences, world)
    sft = tuple(None if source.source == PREFERRED else _open_sft(source, world) for source in data.sft)
    sources = {"prompts": data.prompts}
    sources |= {b.group: b.prompts for b in settings.evaluation.benchmarks if b.prompts is not None}
    prompts = {group: (source, _open_prompts(source, world)) for group, source in sources.items()}
    common = {"version": VERSION, "tokenizer": tokenizer_hash(tokenizer_folder), "max_length": data.max_length}
    pairs = key_of(
        **common,
        train=train.fingerprint,
        validation=validation.fingerprint if validation else data.preferences.validation,
        settings=data.preferences.key_fields(),
    )
    keys = {"pairs": pairs}
    if data.sft:
        mixture = [
            {"source": rows.fingerprint if rows else pairs, **source.key_fields()}
            for source, rows in zip(data.sft, sft, strict=True)
        ]
        keys["sft"] = key_of(**common, mixture=mixture)
    for group, (asked, rows) in prompts.items():
        source = rows.fingerprint if rows else pairs
        keys[group] = key_of(**common, source=source, settings=asked.key_fields())
    return Inputs(train, validation, sft, prompts, keys)


def _open_pairs(preferences: PreferenceSource, world: PocketSettings) -> tuple[Rows, Rows | None]:
    names = _columns(preferences.columns, "prompt", "chosen", "rejected")
    train = _rows(preferences.source, preferences.train, world, "train", _wanted(names))
    validation = None
    if preferences.source == POCKET:
        validation = _rows(POCKET, "", world, "validation", ())
    elif isinstance(preferences.validation, str):
        if names_files(preferences.source) and "split" not in train.columns:
            raise DataError(
                f"{preferences.source}: has no column split, so {preferences.validation!r} can't be held out; "
                f"write data.preferences.validation as a share, e.g. 0.05"
            )
        validation = read_rows(preferences.source, preferences.validation, _wanted(names))
    for rows in (train, validation):
        if rows is None:
            continue
        rows.require([names["chosen"], names["rejected"]])
        answer = rows.rows[0][1].get(names["chosen"])
        if isinstance(answer, str) and not is_transcript(answer) and "instruction" not in rows.columns:
            rows.require([names["prompt"]])  # a bare answer: its prompt has its own column
    return train, validation


def _open_sft(source: SftSource, world: PocketSettings) -> Rows:
    names = _columns(source.columns, "messages", "prompt", "response")
    rows = _rows(source.source, source.split, world, "sft", _wanted(names, "output"))
    first = dict.fromkeys(rows.columns)
    if names["messages"] not in first and not is_alpaca(first):
        instructed = "instruction" in first and names["prompt"] not in first
        rows.require([*([] if instructed else [names["prompt"]]), names["response"]])
    return rows


def _open_prompts(source: PromptSource, world: PocketSettings) -> Rows | None:
    if source.source == HELD_OUT:
        return None
    names = _columns(source.columns, *PROMPT_FIELDS)
    rows = _rows(source.source, source.split, world, "prompts", _wanted(names, "uid"))
    if not rows.rows or not {"instruction", "turns"} & set(rows.columns):
        rows.require([names["prompt"]])
    return rows


def _rows(source: str, split: str | None, world: PocketSettings, part: str, wanted: Collection[str]) -> Rows:
    if source != POCKET:
        return read_rows(source, split, wanted)
    rows = pocket.rows(world, part)
    return Rows(POCKET, key_of(rows=rows), list(enumerate(rows, start=1)), [], tuple(rows[0]))


def _wanted(names: Mapping[str, str], *more: str) -> set[str]:
    """Columns that a row may be read from."""
    return {*names.values(), *CONTEXT_COLUMNS, *more}


def _columns(mapped: dict[str, str], *names: str) -> dict[str, str]:
    for name in mapped:
        if name not in names:
            raise DataError(f"columns: {name!r} is not a field of this source; choose from {', '.join(names)}")
    return {name: mapped.get(name, name) for name in names}


@dataclass(frozen=True)
class Tables:
    """The folders of the prepared tables, and the merged report of what became of the rows."""

    folders: dict[str, Path]
    report: DataReport
    rejects: str
    made: bool


def table_folder(folder: Path, group: str, key: str) -> Path:
    """Where a group of tables lies."""
    return folder / f"{group}-{key}"


def prepare(inputs: Inputs, data: DataSettings, tokenizer: Any, folder: Path) -> Tables:
    """Make the groups of tables that ``folder`` does not hold yet.

    TooManyRejectsError where a source has too little that can be used.
    """
    makers: dict[str, Callable[[Path], None]] = {
        "pairs": lambda target: _make_pairs(target, inputs, data, tokenizer),
        "sft": lambda target: _make_sft(target, inputs, data, tokenizer),
    }
    makers |= {group: partial(_make_prompts, group, inputs, data, tokenizer) for group in inputs.prompts}
    made = False
    folders: dict[str, Path] = {}
    merged = DataReport({}, {}, {}, {})
    rejects = ""
    for group, key in inputs.keys.items():
        folders[group] = table_folder(folder, group, key)
        made |= make_folder(folders[group], makers[group])
        merged = merged.with_more(from_plain(DataReport, read_json(folders[group] / PREPARED_REPORT)))
        rejects += (folders[group] / PREPARED_REJECTS).read_text(encoding="utf-8")
        _refuse(inputs, data, merged, rejects)
    return Tables(folders, merged, rejects, made)


def _pairs(
    inputs: Inputs, data: DataSettings, tally: Tally
) -> tuple[list[tuple[int, PreferencePair]], list[tuple[int, PreferencePair]]]:
    names = _columns(data.preferences.columns, "prompt", "chosen", "rejected")
    found = {
        table: parsed(rows, table, lambda row: preference_pair(row, names), tally)
        for table, rows in {"train": inputs.train, "validation": inputs.validation}.items()
        if rows is not None
    }
    if data.preferences.unique:
        found = {table: each_once(table, pairs, tally) for table, pairs in found.items()}
    train = found["train"]
    if "validation" in found:
        return train, found["validation"]
    share = data.preferences.validation
    assert isinstance(share, float)
    return split_by_prompt(train, share)


def _make_pairs(folder: Path, inputs: Inputs, data: DataSettings, tokenizer: Any) -> None:
    tally, encoder = Tally(), Encoder(tokenizer, data.max_length)
    train, held_out = _pairs(inputs, data, tally)
    write_pairs(folder / "train.parquet", "train", train, encoder, tally)
    # Held-out pairs of a share come from train's source: that is where their rejects are counted.
    table = "validation" if inputs.validation is not None else "train"
    kept = tally.rows["train"]
    write_pairs(folder / "validation.parquet", table, held_out, encoder, tally)
    tally.rows = {"train": kept, "validation": tally.rows[table]}
    tally.notes += encoder.notes
    tally.save(folder)


def _make_sft(folder: Path, inputs: Inputs, data: DataSettings, tokenizer: Any) -> None:
    tally, encoder = Tally(), Encoder(tokenizer, data.max_length)
    parts = []
    for table, source, rows in zip(_sft_tables(data), data.sft, inputs.sft, strict=True):
        if rows is None:
            train, _ = _pairs(inputs, data, Tally())  # what is wrong with pairs is told once, with the pairs
            train = uniquely_preferred(table, train, tally) if source.unique else train
            conversations = [
                (n, Conversation([*pair.prompt, as_message(pair.chosen)], pair.tools)) for n, pair in train
            ]
            tally.read[table] = len(conversations)
        else:
            names = _columns(source.columns, "messages", "prompt", "response")
            conversations = parsed(rows, table, partial(conversation, columns=names), tally)
        parts.append((table, conversations, source.weight))
    write_examples(folder / "sft.parquet", parts, encoder, tally)
    tally.notes += encoder.notes
    tally.save(folder)


def _sft_tables(data: DataSettings) -> list[str]:
    """What the sources of the mixture are called in the rejects and the report."""
    return ["sft"] if len(data.sft) == 1 else [f"sft[{number}]" for number in range(len(data.sft))]


def _make_prompts(group: str, inputs: Inputs, data: DataSettings, tokenizer: Any, folder: Path) -> None:
    tally, encoder = Tally(), Encoder(tokenizer, data.max_length)
    source, rows = inputs.prompts[group]
    candidates: list[tuple[int, Candidate]]
    if rows is None:
        _, held_out = _pairs(inputs, data, Tally())
        candidates = [
            (number, Candidate(pair.prompt, text_of(pair.chosen), tools=pair.tools)) for number, pair in held_out
        ]
        tally.read[group] = len(candidates)
    else:
        candidates = parsed(rows, group, partial(_candidate, names=_columns(source.columns, *PROMPT_FIELDS)), tally)
    write_prompts(folder / "prompts.parquet", group, candidates, source.num, encoder, tally)
    tally.save(folder)


def _candidate(row: dict[str, Any], names: dict[str, str]) -> Candidate:
    answer, name = row.get(names["response"]), row.get(names["question_id"], row.get("uid"))  # ArenaHard has had both
    asked = prompt_of(row, names["prompt"])
    response = answer if isinstance(answer, str) else None
    return Candidate(asked.messages, response, None if name is None else str(name), asked.tools)


def _refuse(inputs: Inputs, data: DataSettings, report: DataReport, rejects: str) -> None:
    """TooManyRejectsError where too little of a table is usable."""
    lines = [json.loads(line) for line in rejects.splitlines()]
    sources = {"train": inputs.train.source, "validation": inputs.train.source}
    sources |= {"sft": ", ".join(source.source for source in data.sft)}
    sources |= dict(zip(_sft_tables(data), (source.source for source in data.sft), strict=True))
    for table, source in (sources | {group: asked.source for group, (asked, _) in inputs.prompts.items()}).items():
        mine = [line for line in lines if line["table"] == table]
        total = report.read.get(table, 0)
        if len(mine) > data.max_rejected_share * total:
            reasons = Counter(line["reason"] for line in mine).most_common(3)
            why = ", ".join(f"{reason}: {count}" for reason, count in reasons)
            first = ", ".join(str(row) for row in sorted(line["row"] for line in mine)[:5])
            raise TooManyRejectsError(
                f"{source}: {len(mine)} of {total} rows can't be used ({why}; first rows: {first}); "
                f"mend them or raise data.max_rejected_share ({data.max_rejected_share:g})",
                rejects,
            )
        if table == "validation" and report.rows.get(table) == 0 and isinstance(data.preferences.validation, float):
            share = data.preferences.validation
            raise TooManyRejectsError(
                f"{source}: data.preferences.validation: a share of {share:g} holds out no prompt; write a larger one",
                rejects,
            )
        if report.rows.get(table) == 0:
            raise TooManyRejectsError(f"{source}: no usable row is left for {table}", rejects)
