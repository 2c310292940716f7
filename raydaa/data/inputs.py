"""The sources of a study, read once, and what each group of tables made of them depends on."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydaa.data.files import names_files, read_rows
from raydaa.data.rows import DataError, Rows
from raydaa.data.sources import CONTEXT_COLUMNS, is_alpaca, is_transcript
from raydaa.pocket import world as pocket
from raydaa.settings.data import (
    HELD_OUT,
    PREFERRED,
    PocketSettings,
    PreferenceSource,
    PromptSource,
    SftSource,
)
from raydaa.settings.study import StudySettings
from raydaa.store.artifacts import key_of, tokenizer_hash

POCKET = "pocket"
PROMPT_FIELDS = ("prompt", "response", "question_id")
VERSION = 5  # of the tables' content; raise it when the same input gives other tables


@dataclass(frozen=True)
class Inputs:
    """The sources' rows, read once, and what each group of tables (``pairs``, ``sft``, ``prompts``, …) depends on."""

    train: Rows
    validation: Rows | None  # None: a share of train's prompts
    sft: tuple[Rows | None, ...]  # in the order of the mixture; None: train's chosen responses
    prompts: dict[str, tuple[PromptSource, Rows | None]]  # by group; None: the held-out pairs' prompts
    depends_on: dict[str, Mapping[str, Any]]


def open_inputs(settings: StudySettings, tokenizer_folder: Path) -> Inputs:
    """Read every source of the study; DataError where one is missing, empty, or lacks a column."""
    data = settings.data
    world = settings.pocket
    train, validation = _open_pairs(data.preferences, world)
    sft = tuple(None if source.source == PREFERRED else _open_sft(source, world) for source in data.sft)
    sources = {"prompts": data.prompts}
    sources |= {b.group: b.prompts for b in settings.evaluation.benchmarks if b.prompts is not None}
    prompts = {group: (source, _open_prompts(source, world)) for group, source in sources.items()}
    common = {"version": VERSION, "tokenizer": tokenizer_hash(tokenizer_folder), "max_length": data.max_length}
    of_pairs = {
        **common,
        "train": train.fingerprint,
        "validation": validation.fingerprint if validation else data.preferences.validation,
        "settings": data.preferences.key_fields(),
    }
    pairs = key_of(**of_pairs)
    depends_on: dict[str, Mapping[str, Any]] = {"pairs": of_pairs}
    if data.sft:
        mixture = [
            {"source": rows.fingerprint if rows else pairs, **source.key_fields()}
            for source, rows in zip(data.sft, sft, strict=True)
        ]
        depends_on["sft"] = {**common, "mixture": mixture}
    for group, (prompt_source, rows) in prompts.items():
        source = rows.fingerprint if rows else pairs
        depends_on[group] = {**common, "source": source, "settings": prompt_source.key_fields()}
    return Inputs(train, validation, sft, prompts, depends_on)


def _open_pairs(preferences: PreferenceSource, world: PocketSettings) -> tuple[Rows, Rows | None]:
    names = columns_of(preferences.columns, "prompt", "chosen", "rejected")
    train = _rows(preferences.source, preferences.train, world, "train", _wanted_columns(names))
    validation = None
    if preferences.source == POCKET:
        validation = _rows(POCKET, "", world, "validation", ())
    elif isinstance(preferences.validation, str):
        if names_files(preferences.source) and "split" not in train.columns:
            raise DataError(
                f"{preferences.source}: has no column split, so {preferences.validation!r} can't be held out; "
                f"write data.preferences.validation as a share, e.g. 0.05"
            )
        validation = read_rows(preferences.source, preferences.validation, _wanted_columns(names))
    for rows in (train, validation):
        if rows is None:
            continue
        rows.require([names["chosen"], names["rejected"]])
        answer = rows.rows[0][1].get(names["chosen"])
        if isinstance(answer, str) and not is_transcript(answer) and "instruction" not in rows.columns:
            rows.require([names["prompt"]])  # a bare answer: its prompt has its own column
    return train, validation


def _open_sft(source: SftSource, world: PocketSettings) -> Rows:
    names = columns_of(source.columns, "messages", "prompt", "response")
    rows = _rows(source.source, source.split, world, "sft", _wanted_columns(names, "output"))
    first = dict.fromkeys(rows.columns)
    if names["messages"] not in first and not is_alpaca(first):
        instructed = "instruction" in first and names["prompt"] not in first
        rows.require([*([] if instructed else [names["prompt"]]), names["response"]])
    return rows


def _open_prompts(source: PromptSource, world: PocketSettings) -> Rows | None:
    if source.source == HELD_OUT:
        return None
    names = columns_of(source.columns, *PROMPT_FIELDS)
    rows = _rows(source.source, source.split, world, "prompts", _wanted_columns(names, "uid"))
    if not rows.rows or not {"instruction", "turns"} & set(rows.columns):
        rows.require([names["prompt"]])
    return rows


def _rows(source: str, split: str | None, world: PocketSettings, part: str, wanted: Collection[str]) -> Rows:
    if source != POCKET:
        return read_rows(source, split, wanted)
    rows = pocket.rows(world, part)
    return Rows(POCKET, key_of(rows=rows), list(enumerate(rows, start=1)), [], tuple(rows[0]))


def _wanted_columns(names: Mapping[str, str], *more: str) -> set[str]:
    """Columns that a row may be read from."""
    return {*names.values(), *CONTEXT_COLUMNS, *more}


def columns_of(mapped: dict[str, str], *names: str) -> dict[str, str]:
    """What each field of a source is called there; DataError where ``mapped`` names one that it has not."""
    for name in mapped:
        if name not in names:
            raise DataError(f"columns: {name!r} is not a field of this source; choose from {', '.join(names)}")
    return {name: mapped.get(name, name) for name in names}
