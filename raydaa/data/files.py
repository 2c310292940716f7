"""Rows from where users keep them: JSON, JSONL and Parquet files, also in buckets; datasets folders; the hub."""

import hashlib
import io
import json
import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
from pyarrow import fs

from raydaa.data.parsing import SPLIT, parser_of
from raydaa.data.rows import DataError, Reject, Rows
from raydaa.errors import first_line
from raydaa.store.artifacts import file_hash, files_below, key_of

FILE_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
OTHER_SUFFIXES = (".csv", ".tsv", ".txt", ".gz", ".arrow")  # surely files, and not readable here


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


def _read_files(source: str, split: str | None, wanted: Collection[str] | None) -> Rows:
    rows: list[tuple[int, dict[str, Any]]] = []
    rejects: list[Reject] = []
    columns: dict[str, None] = {}
    digests = []
    before = 0
    needed = None if wanted is None else {*wanted, SPLIT}
    for name, content in _contents(source):
        digests.append(hashlib.sha256(content).hexdigest())
        parsed, bad, count, names = parser_of(name)(name, content, needed)
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
