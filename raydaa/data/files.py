"""Rows from where users keep them: JSON, JSONL and Parquet files, also in buckets; datasets folders; the hub."""

import gzip
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pyarrow import fs

from raydaa.artifacts import file_hash, files_below, key_of
from raydaa.settings_file import first_line

FILE_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
OTHER_SUFFIXES = (".csv", ".tsv", ".txt", ".gz", ".arrow")  # surely files, and not readable here


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
    Files may be many (``*`` and ``?`` in the name) and lie on any file system that pyarrow knows (``s3://…``,
    ``gs://…``, ``hf://datasets/…``); their rows are numbered one after another, in the order of names. Folders and hub
    ids are loaded with the datasets library, which knows their splits.
    """
    path = Path(source)
    if names_files(source):
        return _read_files(source, split)
    if "://" in source:
        raise DataError(f"{source}: can't be read; data files end in {', '.join(FILE_SUFFIXES)}")
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


def names_files(source: str) -> bool:
    """Whether a source is one data file or several; an address may carry options of its file system after a ``?``."""
    return (source.partition("?")[0] if "://" in source else source).endswith(FILE_SUFFIXES)


def _read_files(source: str, split: str) -> Rows:
    rows: list[tuple[int, dict[str, Any]]] = []
    rejects: list[Reject] = []
    digests, before = [], 0
    for name, content in _contents(source):
        digests.append(hashlib.sha256(content).hexdigest())
        found, bad, count = _parser(name)(name, content)
        rows += [(before + number, row) for number, row in found]
        rejects += [Reject(before + reject.row, reject.reason) for reject in bad]
        before += count
    content_of = {"file": digests[0]} if len(digests) == 1 else {"files": digests}
    return Rows(source, key_of(**content_of, split=split), _of_split(source, rows, split), rejects)


def _contents(source: str) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every file that ``source`` names; DataError where there is none, or an empty one."""
    try:
        system, pattern = fs.FileSystem.from_uri(source) if "://" in source else (fs.LocalFileSystem(), source)
        names = _matching(system, pattern)
        for name in names:
            with system.open_input_stream(name, compression=None) as stream:
                content = stream.read()
            if not content:
                raise DataError(f"{name if len(names) > 1 else source}: the file is empty")
            yield name, content
    except DataError:
        raise
    except Exception as error:  # a file system's client has errors of its own kinds, for want of a network too
        raise DataError(f"{source}: can't be read: {first_line(error)}") from None
    if not names:
        raise DataError(f"{source}: there is no such file")


def _matching(system: fs.FileSystem, pattern: str) -> list[str]:
    if not re.search(r"[*?\[]", pattern):
        return [pattern] if system.get_file_info(pattern).type == fs.FileType.File else []
    above = str(Path(pattern).parent)
    if re.search(r"[*?\[]", above):
        raise DataError(f"{pattern}: only the last part of a path may hold * or ?")
    found = system.get_file_info(fs.FileSelector(above, allow_not_found=True))
    last = Path(pattern).name
    return sorted(info.path for info in found if info.type == fs.FileType.File and fnmatch(info.base_name, last))


def _parser(name: str) -> Callable[[str, bytes], tuple[list[tuple[int, dict[str, Any]]], list[Reject], int]]:
    return {".parquet": _parse_parquet, ".json": _parse_json}.get(Path(name).suffix, _parse_jsonl)


def _parse_json(name: str, content: bytes) -> tuple[list[tuple[int, dict[str, Any]]], list[Reject], int]:
    """One list of objects, as AlpacaEval's files are; rows are counted by their place in it."""
    try:
        items = json.loads(content)
    except ValueError as error:
        raise DataError(f"{name}: can't be read: {first_line(error)}") from None
    if not isinstance(items, list):
        raise DataError(f"{name}: holds no list of rows; write [{{…}}, …], or JSON lines in a .jsonl file")
    rows = [(number, item) for number, item in enumerate(items, start=1) if isinstance(item, dict)]
    bad = [Reject(n, "not a JSON object") for n, item in enumerate(items, start=1) if not isinstance(item, dict)]
    return rows, bad, len(items)


def _parse_jsonl(name: str, content: bytes) -> tuple[list[tuple[int, dict[str, Any]]], list[Reject], int]:
    rows, rejects = [], []
    try:
        lines = (gzip.decompress(content) if name.endswith(".gz") else content).removesuffix(b"\n").split(b"\n")
    except (OSError, EOFError) as error:
        raise DataError(f"{name}: can't be read: {error}") from None
    for number, line in enumerate(lines, start=1):
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
    return rows, rejects, len(lines)


def _parse_parquet(name: str, content: bytes) -> tuple[list[tuple[int, dict[str, Any]]], list[Reject], int]:
    try:
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{name}: is not a readable Parquet file: {first_line(error)}") from None
    return list(enumerate(table.to_pylist(), start=1)), [], table.num_rows


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
        raise DataError(f"{source}: split {split!r} can't be loaded: {first_line(error)}") from None
    return list(enumerate((dict(row) for row in loaded), start=1))


def _of_split(source: str, rows: list[tuple[int, dict[str, Any]]], split: str) -> list[tuple[int, dict[str, Any]]]:
    if not rows or "split" not in rows[0][1]:
        return rows
    kept = [(number, row) for number, row in rows if row.get("split") == split]
    if rows and not kept:
        names = sorted({str(row.get("split")) for _, row in rows})
        raise DataError(f"{source}: there is no split {split!r}; its column split has {', '.join(names)}")
    return kept


def read_csv(source: str) -> pa.Table:
    """A small table of numbers; DataError where it can't be read."""
    for _, content in _contents(source):
        try:
            return pyarrow.csv.read_csv(io.BytesIO(content))
        except pa.ArrowInvalid as error:
            raise DataError(f"{source}: is not a readable CSV file: {first_line(error)}") from None
    raise AssertionError("unreachable")
