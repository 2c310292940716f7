"""The content of one data file as rows: JSON, JSON lines, Parquet."""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raydaa.data.rows import DataError, Reject
from raydaa.errors import first_line

SPLIT = "split"  # a column that says which split a row of a file belongs to

Parsed = tuple[list[tuple[int, dict[str, Any]]], list[Reject], int, Sequence[str]]  # rows, rejects, count, columns


def parser_of(name: str) -> Callable[[str, bytes, Collection[str] | None], Parsed]:
    """What reads a file of this name: its rows, with the columns that are wanted (None: all)."""
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
