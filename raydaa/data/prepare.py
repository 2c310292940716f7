"""Sources in, tokenized tables out, each group kept under a key of what it depends on."""

import json
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raydaa.data.inputs import PROMPT_FIELDS, Inputs, columns_of
from raydaa.data.rows import DataError
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
from raydaa.store.artifacts import read_json
from raydaa.store.output import Output
from raydaa.store.plain import from_plain
from raydaa.store.records import DataReport
from raydaa.store.tables import PREPARED_REJECTS, PREPARED_REPORT


class TooManyRejectsError(DataError):
    """More rows than `data.max_rejected_share` can't be used, or none can; ``rejects`` lists them as JSON lines."""

    def __init__(self, message: str, rejects: str) -> None:
        super().__init__(message)
        self.rejects = rejects


@dataclass(frozen=True)
class TableGroup:
    """Tables that are made together, their report and their rejects: ``pairs``, ``sft``, ``prompts``, …"""

    name: str
    output: Output

    def read_report(self) -> DataReport:
        """What became of the rows that it was made of."""
        return from_plain(DataReport, read_json(self.output.folder / PREPARED_REPORT))

    def read_rejects(self) -> str:
        """The rows that can't be used, as JSON lines."""
        return (self.output.folder / PREPARED_REJECTS).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Preparation:
    """What a study's tables are made of, and where they lie: below ``folder``."""

    inputs: Inputs
    data: DataSettings
    folder: Path

    @property
    def groups(self) -> list[TableGroup]:
        """All groups of tables, in the order in which they are made."""
        return [TableGroup(name, Output(self.folder / name, of)) for name, of in self.inputs.depends_on.items()]

    def make(self, group: TableGroup, tokenizer: Any) -> None:
        """Make a group of tables; TooManyRejectsError where a source has too little that can be used."""
        makers = {"pairs": _make_pairs, "sft": _make_sft}
        maker = makers.get(group.name, partial(_make_prompts, group.name))
        group.output.seal(lambda folder: maker(folder, self.inputs, self.data, tokenizer))
        self.check(group)

    def check(self, group: TableGroup) -> None:
        """TooManyRejectsError where a group that is there was made of too little that can be used."""
        _refuse(self.inputs, self.data, group.read_report(), group.read_rejects())

    def make_missing(self, tokenizer: Any) -> None:
        """Make what is not there; TooManyRejectsError where a source has too little that can be used."""
        for group in self.groups:
            if group.output.done:
                self.check(group)
            else:
                self.make(group, tokenizer)

    def read_report(self) -> DataReport:
        """What became of the rows of all sources."""
        report = DataReport({}, {}, {}, {})
        for group in self.groups:
            report = report.with_more(group.read_report())
        return report


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
    counts = RowCounts()
    encoder = Encoder(tokenizer, data.max_length)
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
    counts = RowCounts()
    encoder = Encoder(tokenizer, data.max_length)
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


def _make_prompts(group: str, folder: Path, inputs: Inputs, data: DataSettings, tokenizer: Any) -> None:
    counts = RowCounts()
    encoder = Encoder(tokenizer, data.max_length)
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
    answer = row.get(names["response"])
    name = row.get(names["question_id"], row.get("uid"))  # ArenaHard has had both
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
