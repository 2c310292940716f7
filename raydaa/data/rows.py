"""Rows of a source as they were read, before anything is made of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from raydaa.errors import RaydaaError


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
