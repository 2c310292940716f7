"""The prepare stage: sources in, tokenized tables out, each kept under a key of what it depends on."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raydaa.data.files import DataError
from raydaa.data.inputs import PROMPT_FIELDS, Inputs, columns_of
from raydaa.data.sources import (
    Conversation,
    PreferencePair,
    as_message,
    conversation,
    preference_pair,
    prompt_of,
    text_of,
)
from raydaa.data.tables import (
    Candidate,
    RowCounts,
    each_once,
    parsed,
    split_by_prompt,
    uniquely_preferred,
    write_examples,
    write_pairs,
    write_prompts,
)
from raydaa.data.tokenize import Encoder
from raydaa.settings.data import DataSettings
from raydaa.store.artifacts import make_folder, read_json
from raydaa.store.plain import from_plain
from raydaa.store.records import DataReport
from raydaa.store.tables import PREPARED_REJECTS, PREPARED_REPORT


class TooManyRejectsError(DataError):
    """More rows than `data.max_rejected_share` can't be used, or none can; ``rejects`` lists them as JSON lines."""

    def __init__(self, message: str, rejects: str) -> None:
        super().__init__(message)
        self.rejects = rejects


@dataclass(frozen=True)
class Tables:
    """The folders of the prepared tables, and the merged report of what became of the rows."""

    folders: dict[str, Path]
    report: DataReport
    rejects: str
    any_made: bool


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
    any_made = False
    folders: dict[str, Path] = {}
    merged = DataReport({}, {}, {}, {})
    rejects = ""
    for group, key in inputs.keys.items():
        folders[group] = table_folder(folder, group, key)
        any_made |= make_folder(folders[group], makers[group])
        merged = merged.with_more(from_plain(DataReport, read_json(folders[group] / PREPARED_REPORT)))
        rejects += (folders[group] / PREPARED_REJECTS).read_text(encoding="utf-8")
        _refuse(inputs, data, merged, rejects)
    return Tables(folders, merged, rejects, any_made)


def _pairs(
    inputs: Inputs, data: DataSettings, counts: RowCounts
) -> tuple[list[tuple[int, PreferencePair]], list[tuple[int, PreferencePair]]]:
    names = columns_of(data.preferences.columns, "prompt", "chosen", "rejected")
    by_table = {
        table: parsed(rows, table, lambda row: preference_pair(row, names), counts)
        for table, rows in {"train": inputs.train, "validation": inputs.validation}.items()
        if rows is not None
    }
    if data.preferences.unique:
        by_table = {table: each_once(table, pairs, counts) for table, pairs in by_table.items()}
    train = by_table["train"]
    if "validation" in by_table:
        return train, by_table["validation"]
    share = data.preferences.validation
    assert isinstance(share, float)
    return split_by_prompt(train, share)


def _make_pairs(folder: Path, inputs: Inputs, data: DataSettings, tokenizer: Any) -> None:
    counts, encoder = RowCounts(), Encoder(tokenizer, data.max_length)
    train, held_out = _pairs(inputs, data, counts)
    write_pairs(folder / "train.parquet", "train", train, encoder, counts)
    # Held-out pairs of a share come from train's source: that is where their rejects are counted.
    table = "validation" if inputs.validation is not None else "train"
    kept = counts.rows["train"]
    write_pairs(folder / "validation.parquet", table, held_out, encoder, counts)
    counts.rows = {"train": kept, "validation": counts.rows[table]}
    counts.notes += encoder.notes
    counts.save(folder)


def _make_sft(folder: Path, inputs: Inputs, data: DataSettings, tokenizer: Any) -> None:
    counts, encoder = RowCounts(), Encoder(tokenizer, data.max_length)
    parts = []
    for table, source, rows in zip(_sft_tables(data), data.sft, inputs.sft, strict=True):
        if rows is None:
            train, _ = _pairs(inputs, data, RowCounts())  # what is wrong with pairs is told once, with the pairs
            train = uniquely_preferred(table, train, counts) if source.unique else train
            conversations = [
                (n, Conversation([*pair.prompt, as_message(pair.chosen)], pair.tools)) for n, pair in train
            ]
            counts.read[table] = len(conversations)
        else:
            names = columns_of(source.columns, "messages", "prompt", "response")
            conversations = parsed(rows, table, partial(conversation, columns=names), counts)
        parts.append((table, conversations, source.weight))
    write_examples(folder / "sft.parquet", parts, encoder, counts)
    counts.notes += encoder.notes
    counts.save(folder)


def _sft_tables(data: DataSettings) -> list[str]:
    """What the sources of the mixture are called in the rejects and the report."""
    return ["sft"] if len(data.sft) == 1 else [f"sft[{number}]" for number in range(len(data.sft))]


def _make_prompts(group: str, inputs: Inputs, data: DataSettings, tokenizer: Any, folder: Path) -> None:
    counts, encoder = RowCounts(), Encoder(tokenizer, data.max_length)
    source, rows = inputs.prompts[group]
    candidates: list[tuple[int, Candidate]]
    if rows is None:
        _, held_out = _pairs(inputs, data, RowCounts())
        candidates = [
            (number, Candidate(pair.prompt, text_of(pair.chosen), tools=pair.tools)) for number, pair in held_out
        ]
        counts.read[group] = len(candidates)
    else:
        candidates = parsed(rows, group, partial(_candidate, names=columns_of(source.columns, *PROMPT_FIELDS)), counts)
    write_prompts(folder / "prompts.parquet", group, candidates, source.num, encoder, counts)
    counts.save(folder)


def _candidate(row: dict[str, Any], names: dict[str, str]) -> Candidate:
    answer, name = row.get(names["response"]), row.get(names["question_id"], row.get("uid"))  # ArenaHard has had both
    prompt = prompt_of(row, names["prompt"])
    response = answer if isinstance(answer, str) else None
    return Candidate(prompt.messages, response, None if name is None else str(name), prompt.tools)


def _refuse(inputs: Inputs, data: DataSettings, report: DataReport, rejects: str) -> None:
    """TooManyRejectsError where too little of a table is usable."""
    lines = [json.loads(line) for line in rejects.splitlines()]
    sources = {"train": inputs.train.source, "validation": inputs.train.source}
    sources |= {"sft": ", ".join(source.source for source in data.sft)}
    sources |= dict(zip(_sft_tables(data), (source.source for source in data.sft), strict=True))
    sources |= {group: prompts.source for group, (prompts, _) in inputs.prompts.items()}
    for table, source in sources.items():
        rejected = [line for line in lines if line["table"] == table]
        total = report.read.get(table, 0)
        if len(rejected) > data.max_rejected_share * total:
            reasons = Counter(line["reason"] for line in rejected).most_common(3)
            why = ", ".join(f"{reason}: {count}" for reason, count in reasons)
            first = ", ".join(str(row) for row in sorted(line["row"] for line in rejected)[:5])
            raise TooManyRejectsError(
                f"{source}: {len(rejected)} of {total} rows can't be used ({why}; first rows: {first}); "
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
