"""Best settings at the end of the values that were tried: there the search has not shown where the best lies."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from raydaa.evaluation.comparison import Comparison, compare
from raydaa.results import TrialResults
from raydaa.store.records import Point
from raydaa.trial_row import TrialRow

LEARNING_RATE = "learning rate"


@dataclass(frozen=True)
class Edge:
    """A method's best setting has the highest, or the lowest, value of ``name`` that was tried; ``next_values`` go on
    from it. ``step`` compares it with its neighbour, where both were measured."""

    row: TrialRow
    name: str
    value: float
    highest: bool
    neighbour: float
    next_values: tuple[float, ...]
    step: Comparison | None
    otherwise: str = ""  # what became of the neighbour, where it was not measured

    def __str__(self) -> str:
        return f"{self.row.title}: {self.name} {self.value:g} is the {self.end} tried, {self.curve}; try {self.tries}"

    @property
    def end(self) -> str:
        """Which."""
        return "highest" if self.highest else "lowest"

    @property
    def tries(self) -> str:
        """What comes next."""
        return " and ".join(f"{value:g}" for value in self.next_values)

    @property
    def curve(self) -> str:
        """How quality goes towards this end."""
        step = self.step
        if step is None:
            return f"{self.neighbour:g} {self.otherwise}"
        digits = step.digits
        shown = f"{step.difference:+.{digits}f} {step.unit} [{step.low:.{digits}f}, {step.high:.{digits}f}]"
        return f"{shown} against {self.neighbour:g}"


def edges(results: TrialResults) -> list[Edge]:
    """Of every method's best setting, best method first."""
    return [edge for row in results.best_of_each() for edge in _edges_of(results, row)]


def _edges_of(results: TrialResults, row: TrialRow) -> Iterator[Edge]:
    point = row.trial.point
    for name, value in _axes(point).items():
        of_method = [other for other in results if (other.title, other.init) == (row.title, row.init)]
        tried = sorted({_axes(other.trial.point)[name] for other in of_method if name in _axes(other.trial.point)})
        if len(tried) > 1 and value in (tried[0], tried[-1]):
            highest = value == tried[-1]
            neighbour = tried[-2] if highest else tried[1]
            step = _step(results, row, name, neighbour)
            # Where it is shown that the curve goes on, two steps: the first may not be the last.
            steps = 2 if step is not None and step.low > 0 else 1
            further = _further(value, neighbour, steps)
            otherwise = _fate(results, at(point, name, neighbour))
            yield Edge(row, name, value, highest, neighbour, further, step, otherwise)


def _axes(point: Point) -> dict[str, float]:
    """What a curve can be drawn over."""
    numbers = {name: float(value) for name, value in point.parameters.items() if _is_number(value)}
    return {LEARNING_RATE: point.learning_rate, **numbers}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def at(point: Point, name: str, value: float) -> Point:
    """The same point at another value of one axis."""
    if name == LEARNING_RATE:
        return replace(point, learning_rate=value)
    return replace(point, parameters={**point.parameters, name: value})


def _fate(results: TrialResults, point: Point) -> str:
    """What became of a setting that there is no comparison with."""
    trials = [row for row in results if row.trial.point.setting == point.setting and not row.trial.finalist]
    if not trials:
        return "was not tried with the rest"
    if any(row.finished for row in trials):
        return "was not judged"
    if any(row.stopped_early for row in trials):
        return "was stopped early"
    return "did not finish"


def _step(results: TrialResults, row: TrialRow, name: str, neighbour: float) -> Comparison | None:
    """The best setting against the one beside it; None where that was not measured."""
    beside = at(row.trial.point, name, neighbour).setting
    others = [other for other in results.settings if other.trial.point.setting == beside]
    outcomes = results.outcomes_of([row, *others])
    if not others or not outcomes.size:
        return None
    compared = compare([row.title, "beside"], outcomes, results.evaluation.spread, bounded=results.judged)
    return compared[0] if compared else None


def _further(value: float, neighbour: float, steps: int) -> tuple[float, ...]:
    """As far again from the neighbour, in ratio where both are positive."""
    further: list[float] = []
    for number in range(1, steps + 1):
        if value > 0 and neighbour > 0:
            further.append(float(f"{value * (value / neighbour) ** number:.2g}"))
        else:
            further.append(float(f"{value + number * (value - neighbour):.3g}"))
    return tuple(further)
