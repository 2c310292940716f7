"""Rows from where users keep them: JSON, JSONL and Parquet files, also in buckets; datasets folders; the hub."""

import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pyarrow import fs

from raydaa.errors import RaydaaError, first_line
from raydaa.store.artifacts import file_hash, files_below, key_of

FILE_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
OTHER_SUFFIXES = (".csv", ".tsv", ".txt", ".gz", ".arrow")  # surely files, and not readable here


SPLIT = "split"  # a column that says which split a row of a file belongs to


class DataError(RaydaaError, ValueError):
    """Input data that can't be used; one line that names the source."""


@dataclass(frozen=True)
class Reject:
    """A row that can't be used, and why; ``row`` counts from 1 (the line number in a JSONL file)."""

    row: int
    reason: str


@dataclass(frozen=True)
class Rows:
    """Parsed rows with their row numbers, the rows that could not be parsed, and a hash of the content.

    ``columns`` are all that the source has; rows hold only those that were asked for. ``by_split``: whether they were
    chosen by their column ``split``.
    """

    source: str
    fingerprint: str
    rows: list[tuple[int, dict[str, Any]]]
    rejects: list[Reject] = field(default_factory=list)
    columns: tuple[str, ...] = ()
    by_split: bool = False

    def require(self, columns: Sequence[str]) -> None:
        """DataError unless every column stands in some row."""
        if not self.rows:
            raise DataError(f"{self.source}: holds no usable rows; a row needs {', '.join(columns)}")
        for column in columns:
            if column not in self.columns:
                raise DataError(
                    f"{self.source}: there is no column {column!r}; it has {', '.join(self.columns)}: "
                    f"map it with columns"
                )


def read_rows(source: str, split: str | None, wanted: Collection[str] | None = None) -> Rows:
    """All rows of ``source`` that belong to ``split``, with the columns ``wanted`` (None: all of them).

    A file with a column ``split`` is filtered by it, unless ``split`` is None; a file without one holds a single split,
    whatever its name. Files may be many (``*`` and ``?`` in the name) and lie on any file system that pyarrow knows
    (``s3://…``, ``gs://…``, ``hf://datasets/…``); their rows are numbered one after another, in the order of names.
    Folders and hub ids are loaded with the datasets library, which knows their splits.
    """
    path = Path(source)
    if names_files(source):
        return _read_files(source, split, wanted)
    if "://" in source:
        raise DataError(f"{source}: can't be read; data files end in {', '.join(FILE_SUFFIXES)}")
    if path.is_dir():
        digests = {str(p.relative_to(path)): file_hash(p) for p in files_below(path)}
        rows, columns = _read_datasets(source, split or "train", wanted)
        return Rows(source, key_of(files=digests, split=split), rows, [], columns)
    if path.is_file() or path.suffix in OTHER_SUFFIXES:
        raise DataError(f"{source}: can't be read; data files end in {', '.join(FILE_SUFFIXES)}")
    if source.startswith(("/", ".")):
        raise DataError(f"{source}: there is no such file or folder")
    rows, columns = _read_datasets(source, split or "train", wanted)
    content = json.dumps([row for _, row in rows], default=str)  # a hub row may hold times or bytes
    return Rows(source, key_of(content=hashlib.sha256(content.encode()).hexdigest(), split=split), rows, [], columns)


def names_files(source: str) -> bool:
    """Whether a source is one data file or several; an address may carry options of its file system after a ``?``."""
    return (source.partition("?")[0] if "://" in source else source).endswith(FILE_SUFFIXES)


Parsed = tuple[list[tuple[int, dict[str, Any]]], list[Reject], int, Sequence[str]]  # rows, rejects, count, columns


def _read_files(source: str, split: str | None, wanted: Collection[str] | None) -> Rows:
    rows: list[tuple[int, dict[str, Any]]] = []
    rejects: list[Reject] = []
    columns: dict[str, None] = {}
    digests = []
    before = 0
    needed = None if wanted is None else {*wanted, SPLIT}
    for name, content in _contents(source):
        digests.append(hashlib.sha256(content).hexdigest())
        parsed, bad, count, names = _parser(name)(name, content, needed)
        rows += [(before + number, row) for number, row in parsed]
        rejects += [Reject(before + reject.row, reject.reason) for reject in bad]
        columns |= dict.fromkeys(names)
        before += count
    content_of = {"file": digests[0]} if len(digests) == 1 else {"files": digests}
    by_split = split is not None and SPLIT in columns
    if split is not None and by_split:
        rows, without = _of_split(source, rows, split)
        rejects += without
    return Rows(source, key_of(**content_of, split=split), rows, rejects, tuple(columns), by_split)


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
    infos = system.get_file_info(fs.FileSelector(above, allow_not_found=True))
    last = Path(pattern).name
    return sorted(info.path for info in infos if info.type == fs.FileType.File and fnmatch(info.base_name, last))


def _parser(name: str) -> Callable[[str, bytes, Collection[str] | None], Parsed]:
    return {".parquet": _parse_parquet, ".json": _parse_json}.get(Path(name).suffix, _parse_jsonl)


def _parse_json(name: str, content: bytes, wanted: Collection[str] | None) -> Parsed:
    """One list of objects, as AlpacaEval's files are, whose rows are counted by their place in it; or JSON lines."""
    try:
        items = json.loads(content)
    except (ValueError, RecursionError) as error:
        lines = _parse_jsonl(name, content, wanted)
        if lines[0]:
            return lines
        raise DataError(f"{name}: can't be read: {first_line(error)}") from None
    if isinstance(items, dict) and b"\n" not in content.strip():  # one line of JSON lines
        items = [items]
    if not isinstance(items, list):
        raise DataError(f"{name}: holds no list of rows; write [{{…}}, …], or an object a line")
    return *_objects(enumerate(items, start=1), wanted), len(items), _names(items)


def _objects(
    items: Iterable[tuple[int, Any]], wanted: Collection[str] | None
) -> tuple[list[tuple[int, dict[str, Any]]], list[Reject]]:
    """Rows among parsed values; what is no object, or can't be written as Unicode, is a reject."""
    rows = []
    rejects = []
    for number, item in items:
        if not isinstance(item, dict):
            rejects.append(Reject(number, "not a JSON object"))
            continue
        row = item if wanted is None else {name: value for name, value in item.items() if name in wanted}
        if _has_surrogate(row):
            rejects.append(Reject(number, "half of a surrogate pair: not Unicode text"))
        else:
            rows.append((number, row))
    return rows, rejects


def _has_surrogate(row: dict[str, Any]) -> bool:
    """Whether some text of a row, at any depth, could not be written to a file."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _names(items: Iterable[Any]) -> tuple[str, ...]:
    """Every key of parsed objects, in the order of their first appearance."""
    names: dict[str, None] = {}
    for item in items:
        if isinstance(item, dict):
            names |= dict.fromkeys(item)
    return tuple(names)


def _parse_jsonl(name: str, content: bytes, wanted: Collection[str] | None) -> Parsed:
    items: list[tuple[int, Any]] = []
    rejects = []
    try:
        lines = (gzip.decompress(content) if name.endswith(".gz") else content).removesuffix(b"\n").split(b"\n")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name}: can't be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            items.append((number, json.loads(line)))
        except ValueError:
            rejects.append(Reject(number, "broken JSON"))
        except RecursionError:
            rejects.append(Reject(number, "JSON nested too deeply"))
    rows, bad = _objects(items, wanted)
    return rows, rejects + bad, len(lines), _names(item for _, item in items)


def _parse_parquet(name: str, content: bytes, wanted: Collection[str] | None) -> Parsed:
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        names = file.schema_arrow.names
        read = None if wanted is None else [column for column in names if column in wanted]
        table = file.read(columns=read)
        try:
            numbered = [(number, row, "") for number, row in enumerate(table.to_pylist(), start=1)]
        except UnicodeDecodeError:
            numbered = [(number, *_row(table.slice(number - 1, 1))) for number in range(1, table.num_rows + 1)]
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:  # times have errors of their own
        raise DataError(f"{name}: is not a readable Parquet file: {first_line(error)}") from None
    rows = [(number, row) for number, row, wrong in numbered if not wrong]
    return rows, [Reject(number, wrong) for number, _, wrong in numbered if wrong], table.num_rows, names


def _row(alone: pa.Table) -> tuple[dict[str, Any], str]:
    """The row of a table of one, or what is wrong with it."""
    try:
        return alone.to_pylist()[0], ""
    except UnicodeDecodeError:
        return {}, "not Unicode text"


def _read_datasets(
    source: str, split: str, wanted: Collection[str] | None
) -> tuple[list[tuple[int, dict[str, Any]]], tuple[str, ...]]:
    """Rows of a split, and the names of all columns."""
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
        columns = tuple(loaded.column_names)
        if wanted is not None:
            loaded = loaded.select_columns([name for name in columns if name in wanted])
        return list(enumerate((dict(row) for row in loaded), start=1)), columns
    except DataError:
        raise
    except Exception as error:  # the library raises dozens of kinds; for a user they all mean: not loadable
        raise DataError(f"{source}: split {split!r} can't be loaded: {first_line(error)}") from None


def _of_split(
    source: str, rows: list[tuple[int, dict[str, Any]]], split: str
) -> tuple[list[tuple[int, dict[str, Any]]], list[Reject]]:
    """The rows of a split, and those that name none beside others that do."""
    kept = [(number, row) for number, row in rows if row.get(SPLIT) is not None and str(row[SPLIT]) == split]
    if rows and not kept:
        names = sorted({str(row[SPLIT]) for _, row in rows if row.get(SPLIT) is not None})
        raise DataError(
            f"{source}: there is no split {split!r}; its column split has {', '.join(names)} "
            f"(null for the split's name switches the column off)"
        )
    return kept, [Reject(number, "names no split") for number, row in rows if row.get(SPLIT) is None]


def read_csv(source: str) -> pa.Table:
    """A small table of numbers; DataError where it can't be read."""
    for _, content in _contents(source):
        try:
            return pyarrow.csv.read_csv(io.BytesIO(content))
        except pa.ArrowInvalid as error:
            raise DataError(f"{source}: is not a readable CSV file: {first_line(error)}") from None
    raise AssertionError("unreachable")
