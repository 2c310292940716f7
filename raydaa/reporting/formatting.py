"""What tables are made of: cells as a person reads them."""

from collections.abc import Sequence
from dataclasses import dataclass

from raydaa.evaluation.arena_hard import ArenaScore
from raydaa.evaluation.figures import BenchmarkFigures
from raydaa.evaluation.kl import Divergence
from raydaa.evaluation.win_rate import WinRate

TWO_SIDED = 1.96  # standard errors within which 95 % of a normal distribution lie


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


def p_value(p: float) -> str:
    """No smaller than anybody would believe."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def rate(score: WinRate | ArenaScore | None) -> str:
    """A score in percent and its interval."""
    return "–" if score is None else with_interval(score.value, score.low, score.high)


def won(figures: BenchmarkFigures | None) -> str:
    """A win rate and its interval."""
    return rate(None if figures is None else figures.win_rate)


def distance(divergence: Divergence | None) -> str:
    """A KL per response and its interval."""
    return "–" if divergence is None else with_interval(divergence.per_response, divergence.low, divergence.high, 2)


def controlled(figures: BenchmarkFigures | None) -> str:
    """A length-controlled win rate; beside it the one without difficulty, where that is taken for length."""
    length_controlled = None if figures is None else figures.length_controlled
    if length_controlled is None or length_controlled.value is None:
        return "–"
    shown = _with_error(length_controlled.value, length_controlled.standard_error)
    if length_controlled.alone is None:
        return shown
    return f"{shown}; {_with_error(length_controlled.alone, length_controlled.alone_error)} without difficulty"


def _with_error(value: float, error: float | None) -> str:
    if error is None:
        return number(value, 1)
    return with_interval(value, max(0.0, value - TWO_SIDED * error), min(100.0, value + TWO_SIDED * error))
