"""What a figure shows, before anything is drawn: series of marks over two axes, bars, or lines over many axes.

Two renderers draw it, `raydaa.reporting.with_matplotlib` for files and `raydaa.reporting.with_plotly` for pages;
neither selects anything.
"""

from dataclasses import dataclass
from typing import Literal

# Okabe and Ito's colours, which the colour-blind can tell apart, one for each method.
COLOURS = "#0072B2 #E69F00 #009E73 #D55E00 #56B4E9 #CC79A7 #7F7F7F #999933 #882255 #44AA99".split()
WORST, BEST = (178, 186, 194), (213, 94, 0)  # colours that are told apart on white and on black


@dataclass(frozen=True)
class Value:
    """A number with the ends of its interval, where it has one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def errors(self) -> tuple[float, float]:
        """How far the interval reaches below and above, 0 where there is none."""
        if self.low is None or self.high is None:
            return 0.0, 0.0
        return max(0.0, self.value - self.low), max(0.0, self.high - self.value)


@dataclass(frozen=True)
class Axis:
    """``stretched`` is linear near zero and logarithmic beyond, so that one mark far out hides no others; on an axis
    of ``categories`` numbers count them from 0."""

    title: str
    scale: Literal["linear", "log", "stretched"] = "linear"
    reversed: bool = False  # smaller is better, and up is better
    limits: tuple[float, float] | None = None
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mark:
    """One trial's place; ``ranking`` chooses its symbol, ``facts`` stand beside the pointer, ``note`` beside it;
    ``faint`` ones are there to be seen, not to be chosen."""

    x: Value
    y: Value
    trial: str = ""
    ranking: str = "pairwise"
    facts: tuple[str, ...] = ()
    note: str | None = None
    faint: bool = False


@dataclass(frozen=True)
class Series:
    """Marks of one colour; ``group`` is what a reader may leave out, ``panel`` a part of the figure of their own."""

    name: str
    group: str
    colour: int
    marks: tuple[Mark, ...]
    joined: bool = False
    pale: bool = False
    listed: bool = True  # in the legend
    panel: str | None = None


@dataclass(frozen=True)
class Guide:
    """A line that is no trial's."""

    points: tuple[tuple[float, float], ...] = ()
    name: str | None = None
    at_x: float | None = None
    at_y: float | None = None


@dataclass(frozen=True)
class Chart:
    """Marks over two axes."""

    name: str
    caption: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    guides: tuple[Guide, ...] = ()


@dataclass(frozen=True)
class Bar:
    """One row of stacked bars: a length for each of the chart's parts."""

    name: str
    group: str
    trial: str
    lengths: tuple[float, ...]


@dataclass(frozen=True)
class Part:
    """What one colour of bars stands for; ``ink`` is readable on it."""

    name: str
    colour: str
    ink: str


@dataclass(frozen=True)
class BarChart:
    """Stacked horizontal bars, the first at the top."""

    name: str
    caption: str
    x: Axis
    parts: tuple[Part, ...]
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class ParallelAxis:
    """One of several upright axes; ``ticks`` are texts at places between 0, its foot, and 1."""

    title: str
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class ParallelLine:
    """One trial's place on each axis; ``rank`` is 1 for the best of all and 0 for the worst."""

    places: tuple[float, ...]
    rank: float
    facts: tuple[str, ...] = ()

    @property
    def colour(self) -> str:
        """From grey, the worst, to vermilion, the best."""
        mixed = [round(grey + self.rank * (red - grey)) for grey, red in zip(WORST, BEST, strict=True)]
        return "#" + "".join(f"{part:02x}" for part in mixed)


@dataclass(frozen=True)
class ParallelChart:
    """Lines over several upright axes, the last drawn over those before."""

    name: str
    caption: str
    axes: tuple[ParallelAxis, ...]
    lines: tuple[ParallelLine, ...]


AnyChart = Chart | BarChart | ParallelChart
