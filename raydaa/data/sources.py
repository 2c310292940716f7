"""Rows from where users keep them: JSONL (also gzipped), Parquet, a datasets folder, or a hub id."""

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raydaa.artifacts import file_hash, files_below, key_of

Messages = list[dict[str, str]]
FILE_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
OTHER_SUFFIXES = (".json", ".csv", ".tsv", ".txt", ".gz", ".arrow")  # surely files, and not readable here


class DataError(ValueError):
    """Input data that can't be used; one line that names the source."""


@dataclass(frozen=True)
class Reject:
    """A row that can't be used, and why; ``row`` counts from 1 (the line number in a JSONL file)."""

    row: int
    reason: str


@dataclass(frozen=True)
class Rows:
    """Parsed rows with their row numbers, the rows that could not be parsed, and a hash of the content."""

    source: str
    fingerprint: str
    rows: list[tuple[int, dict[str, Any]]]
    rejects: list[Reject] = field(default_factory=list)

    def require(self, columns: Sequence[str]) -> None:
        """DataError unless every column stands in the first row."""
        if not self.rows:
            raise DataError(f"{self.source}: holds no usable rows; a row needs {', '.join(columns)}")
        present = self.rows[0][1]
        for column in columns:
            if column not in present:
                raise DataError(
                    f"{self.source}: there is no column {column!r}; it has {', '.join(present)}: map it with columns"
                )


def read_rows(source: str, split: str) -> Rows:
    """All rows of ``source`` that belong to ``split``.

    A file with a column ``split`` is filtered by it; a file without one holds a single split, whatever its name.
    Folders and hub ids are loaded with the datasets library, which knows their splits.
    """
    path = Path(source)
    if source.endswith(FILE_SUFFIXES):
        if not path.is_file():
            raise DataError(f"{source}: there is no such file")
        if path.stat().st_size == 0:
            raise DataError(f"{source}: the file is empty")
        rows, rejects = _read_parquet(path) if source.endswith(".parquet") else _read_jsonl(path)
        rows = _of_split(source, rows, split)
        return Rows(source, key_of(file=file_hash(path), split=split), rows, rejects)
    if path.is_dir():
        digests = {str(p.relative_to(path)): file_hash(p) for p in files_below(path)}
        return Rows(source, key_of(files=digests, split=split), _read_datasets(source, split))
    if path.is_file() or path.suffix in OTHER_SUFFIXES:
        raise DataError(f"{source}: can't be read; data files end in {', '.join(FILE_SUFFIXES)}")
    if source.startswith(("/", ".")):
        raise DataError(f"{source}: there is no such file or folder")
    rows = _read_datasets(source, split)
    content = json.dumps([row for _, row in rows], default=str)  # a hub row may hold times or bytes
    return Rows(source, key_of(content=hashlib.sha256(content.encode()).hexdigest(), split=split), rows)


def _read_jsonl(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], list[Reject]]:
    rows, rejects = [], []
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError:
                    rejects.append(Reject(number, "broken JSON"))
                    continue
                if isinstance(row, dict):
                    rows.append((number, row))
                else:
                    rejects.append(Reject(number, "not a JSON object"))
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: can't be read: {error}") from None
    return rows, rejects


def _read_parquet(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], list[Reject]]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: is not a readable Parquet file: {str(error).splitlines()[0]}") from None
    return list(enumerate(table.to_pylist(), start=1)), []


def _read_datasets(source: str, split: str) -> list[tuple[int, dict[str, Any]]]:
    import datasets

    try:
        if (Path(source) / "dataset_info.json").is_file() or (Path(source) / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(source)
            if isinstance(loaded, datasets.DatasetDict):
                if split not in loaded:
                    raise DataError(f"{source}: there is no split {split!r}; it has {', '.join(loaded)}")
                loaded = loaded[split]
        else:
            loaded = datasets.load_dataset(source, split=split)
    except DataError:
        raise
    except Exception as error:  # the library raises dozens of kinds; for a user they all mean: not loadable
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{source}: split {split!r} can't be loaded: {reason}") from None
    return list(enumerate((dict(row) for row in loaded), start=1))


def _of_split(source: str, rows: list[tuple[int, dict[str, Any]]], split: str) -> list[tuple[int, dict[str, Any]]]:
    if not rows or "split" not in rows[0][1]:
        return rows
    kept = [(number, row) for number, row in rows if row.get("split") == split]
    if rows and not kept:
        names = sorted({str(row.get("split")) for _, row in rows})
        raise DataError(f"{source}: there is no split {split!r}; its column split has {', '.join(names)}")
    return kept


@dataclass(frozen=True)
class PreferencePair:
    """A prompt as messages, and two responses as text."""

    prompt: Messages
    chosen: str
    rejected: str


class BadRowError(ValueError):
    """Why one row can't be used: it is counted and written to the rejects."""


def preference_pair(row: Mapping[str, Any], columns: Mapping[str, str]) -> PreferencePair:
    """A pair from any of the layouts in use: text or messages, prompt apart or repeated in both conversations."""
    chosen_context, chosen = _conversation(row.get(columns["chosen"]))
    rejected_context, rejected = _conversation(row.get(columns["rejected"]))
    if chosen_context != rejected_context:
        raise BadRowError("chosen and rejected answer different prompts")
    prompt = chosen_context or messages_of(row.get(columns["prompt"]))
    if not prompt or not any(message["content"].strip() for message in prompt):
        raise BadRowError("empty prompt")
    if not chosen.strip() or not rejected.strip():
        raise BadRowError("empty response")
    if chosen == rejected:
        raise BadRowError("chosen equals rejected")
    return PreferencePair(prompt, chosen, rejected)


def conversation(row: Mapping[str, Any], columns: Mapping[str, str]) -> Messages:
    """An SFT example as messages: from ``messages``, or from ``prompt`` and ``response``."""
    if columns["messages"] in row:
        messages = messages_of(row[columns["messages"]])
    else:
        response = row.get(columns["response"])
        if not isinstance(response, str):
            raise BadRowError("the response is not text")
        messages = [*messages_of(row.get(columns["prompt"])), {"role": "assistant", "content": response}]
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not answers or messages[0]["role"] == "assistant":
        raise BadRowError("no assistant turn that answers a prompt")
    if not all(answer.strip() for answer in answers):
        raise BadRowError("empty response")
    return messages


def messages_of(value: Any) -> Messages:
    """Chat messages from text (one user turn, or an Anthropic "\\n\\nHuman:" transcript) or a list of messages."""
    if isinstance(value, str):
        messages = _transcript(value) if is_transcript(value) else [{"role": "user", "content": value}]
        # A prompt that ends in "Assistant:" asks for the answer; it holds no empty one.
        return messages[:-1] if messages[-1] == {"role": "assistant", "content": ""} else messages
    if isinstance(value, list) and value and all(isinstance(m, dict) for m in value):
        messages = [{"role": m.get("role"), "content": m.get("content")} for m in value]
        if all(isinstance(m["role"], str) and isinstance(m["content"], str) for m in messages):
            return messages
    raise BadRowError("the prompt is neither text nor chat messages")


def _conversation(value: Any) -> tuple[Messages, str]:
    """The context and the final answer in a ``chosen`` or ``rejected`` field."""
    if value is None:
        raise BadRowError("empty response")
    if isinstance(value, str) and not is_transcript(value):
        return [], value
    messages = messages_of(value)
    if not messages or messages[-1]["role"] != "assistant":
        raise BadRowError("empty response")
    return messages[:-1], messages[-1]["content"]


def is_transcript(text: str) -> bool:
    """Whether a text is a whole "Human: … Assistant: …" conversation, as in Anthropic's data."""
    return text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def _transcript(text: str) -> Messages:
    messages: Messages = []
    for part in ("\n\n" + text.strip()).split("\n\nHuman:")[1:]:
        question, *answers = part.split("\n\nAssistant:")
        messages.append({"role": "user", "content": question.strip()})
        messages.extend({"role": "assistant", "content": answer.strip()} for answer in answers)
    return messages
