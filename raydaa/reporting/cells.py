"""What tables are made of: cells as a person reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Cells with what stands above them, for every format."""

    title: str
    header: Sequence[str]
    rows: list[list[str]]


def number(value: float | None, digits: int = 2) -> str:
    """A dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def with_interval(value: float | None, low: float | None, high: float | None, digits: int = 1) -> str:
    """A value and its interval in brackets."""
    if value is None:
        return "–"
    return f"{value:.{digits}f} [{number(low, digits)}, {number(high, digits)}]"


def with_error(value: float | None, error: float | None) -> str:
    """A value and its standard error."""
    return "–" if value is None else f"{value:.1f} ± {error or 0:.1f}"


def rate(score: dict[str, Any] | None) -> str:
    """A score as evaluation writes it."""
    return "–" if score is None else with_interval(score["value"], score["low"], score["high"])


def controlled(figures: dict[str, Any]) -> str:
    """A length-controlled win rate."""
    found = figures.get("length_controlled") or {}
    return with_error(found.get("value"), found.get("standard_error"))
