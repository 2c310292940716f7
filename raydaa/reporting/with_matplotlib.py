"""Charts as files: SVG (also for pages), PNG and PDF. pyplot belongs to whoever runs this process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure

from raydaa.reporting.chart import COLOURS, AnyChart, Axis, BarChart, Chart, Guide, Mark, ParallelChart, Series, Value

MARKERS = {"pairwise": "o", "pointwise": "s"}
LINES = ("-", "--")  # when colours begin again
STYLE = {
    "svg.hashsalt": "raydaa",
    "axes.prop_cycle": cycler(color=COLOURS),
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def literal(text: str) -> str:
    """For matplotlib, which reads mathematics between dollars."""
    return text.replace("$", r"\$")


def draw(charts: list[AnyChart], folder: Path) -> dict[str, Path]:
    """Write every chart into ``folder``, as SVG, PNG and PDF; name → SVG path."""
    paths = {}
    with matplotlib.rc_context(STYLE):
        for chart in charts:
            figure = figure_of(chart)
            paths[chart.name] = folder / f"{chart.name}.svg"
            # Without a date the same results give the same file.
            figure.savefig(paths[chart.name], metadata={"Date": None})
            figure.set_layout_engine("none")  # it was laid out: once is enough
            figure.savefig(folder / f"{chart.name}.png", dpi=150)
            figure.savefig(folder / f"{chart.name}.pdf", metadata={"CreationDate": None})
    return paths


def figure_of(chart: AnyChart) -> Figure:
    """One chart, drawn."""
    if isinstance(chart, BarChart):
        return _bars(chart)
    if isinstance(chart, ParallelChart):
        return _parallel(chart)
    panels = list(dict.fromkeys(series.panel for series in chart.series))
    return _panels(chart, panels) if panels != [None] else _single(chart)


def _single(chart: Chart) -> Figure:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for series in chart.series:
        _draw_series(axes, series)
    for guide in chart.guides:
        _draw_guide(axes, guide)
    _draw_notes(axes, chart)
    _scale(axes.xaxis, axes, "x", chart.x)
    _scale(axes.yaxis, axes, "y", chart.y)
    if chart.x.scale == "stretched":
        axes.set_xlim(left=min([0.0, *(m.x.value - m.x.errors[0] for series in chart.series for m in series.marks)]))
    axes.set(xlabel=literal(chart.x.title), ylabel=literal(chart.y.title))
    many = sum(series.listed for series in chart.series) > 5
    legend = {"ncols": 5, "fontsize": 8, "loc": "lower center", "bbox_to_anchor": (0.5, 1.0)} if many else {}
    axes.legend(frameon=False, **legend)
    return figure


def _panels(chart: Chart, panels: list[str | None]) -> Figure:
    """Small figures beside each other with one vertical axis."""
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(2.3 * columns + 0.8, 2.2 * lines + 0.4), layout="constrained")
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        shown = [series for series in chart.series if series.panel == panel]
        for series in shown:
            _draw_series(axes, series)
        places = sorted({mark.x.value for series in shown for mark in series.marks})
        for guide in chart.guides:
            if guide.at_x is None or places[0] <= guide.at_x <= places[-1]:
                _draw_guide(axes, guide)
        _scale(axes.xaxis, axes, "x", chart.x)
        if not chart.x.categories:
            axes.set_xticks(places, [f"{tick:g}" for tick in places], rotation=45 if len(places) > 4 else 0)
            axes.set_xticks([], minor=True)
        axes.set_title(literal(panel or ""))
        axes.margins(x=0.2)
        _scale(axes.yaxis, axes, "y", chart.y)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    if len({series.name for series in chart.series}) < len(chart.series):  # a name is one panel's alone, or its own
        grid.flat[0].legend(frameon=False)
    figure.supxlabel(literal(chart.x.title), fontsize=10)
    figure.supylabel(literal(chart.y.title), fontsize=10)
    return figure


def _draw_series(axes: Any, series: Series) -> None:
    colour = COLOURS[series.colour % len(COLOURS)]
    pale = 0.35 if series.pale else 1.0
    style = LINES[series.colour // len(COLOURS) % len(LINES)] if series.joined else "none"
    axes.plot(*_places(series.marks), color=colour, ls=style, lw=1, alpha=pale, zorder=1)
    for ranking, faint in dict.fromkeys((mark.ranking, mark.faint) for mark in series.marks):
        marks = [mark for mark in series.marks if (mark.ranking, mark.faint) == (ranking, faint)]
        bars = {"xerr": _errors([mark.x for mark in marks]), "yerr": _errors([mark.y for mark in marks])}
        alpha = 0.3 if faint else pale
        look = {"color": colour, "marker": MARKERS[ranking], "ms": 4, "ls": "none", "lw": 0.8, "alpha": alpha}
        axes.errorbar(*_places(marks), **bars, **look, elinewidth=0.8, zorder=2)
    if series.listed:
        marker = MARKERS[series.marks[0].ranking] if series.marks else "o"
        axes.plot([], [], color=colour, marker=marker, ls=style, label=literal(series.name))


def _places(marks: Sequence[Mark]) -> tuple[list[float], list[float]]:
    return [mark.x.value for mark in marks], [mark.y.value for mark in marks]


def _errors(values: Sequence[Value]) -> list[tuple[float, ...]] | None:
    """How far bars reach below and above each value; None where there are none."""
    errors = [value.errors for value in values]
    return list(zip(*errors, strict=True)) if any(map(any, errors)) else None


def _draw_notes(axes: Any, chart: Chart) -> None:
    """Neighbours lie close: their notes take turns above left and below right."""
    noted = [mark for series in chart.series for mark in series.marks if mark.note is not None]
    for index, mark in enumerate(sorted(noted, key=lambda mark: mark.x.value)):
        axes.annotate(
            literal(mark.note or ""),
            (mark.x.value, mark.y.value),
            textcoords="offset points",
            xytext=(-6, 7) if index % 2 else (6, -11),
            ha="right" if index % 2 else "left",
            fontsize=8,
        )


def _draw_guide(axes: Any, guide: Guide) -> None:
    if guide.at_x is not None:
        axes.axvline(guide.at_x, color="0.6", lw=0.8, ls=":")
    if guide.at_y is not None:
        axes.axhline(guide.at_y, color="0.7", lw=0.8, ls=":")
    if guide.points:
        x, y = zip(*guide.points, strict=True)
        axes.plot(x, y, color="0.4", lw=1, zorder=0)


def _scale(axis: Any, axes: Any, which: str, wanted: Axis) -> None:
    set_scale, set_limits = getattr(axes, f"set_{which}scale"), getattr(axes, f"set_{which}lim")
    if wanted.scale == "stretched":
        set_scale("symlog", linthresh=1)
        axis.set_major_formatter("{x:g}")
    if wanted.scale == "log":
        set_scale("log")
        axis.set_major_formatter("{x:g}")
        low, high = sorted(getattr(axes, f"get_{which}lim")())
        axis.set_minor_formatter("{x:.3g}" if high < 5 * low else "")  # a short axis may have no power of ten
    if wanted.categories:
        axis.set_ticks(range(len(wanted.categories)), list(map(literal, wanted.categories)))
        if len(wanted.categories) > 5:
            axes.tick_params(axis=which, labelrotation=30)
    if wanted.limits is not None:
        set_limits(*wanted.limits)
    if wanted.reversed:
        axis.set_inverted(True)


def _bars(chart: BarChart) -> Figure:
    figure = Figure(figsize=(7, 0.8 + 0.32 * len(chart.bars)), layout="constrained")
    axes = figure.subplots()
    bars = chart.bars[::-1]
    left = [0.0] * len(bars)
    for number, part in enumerate(chart.parts):
        lengths = [bar.lengths[number] for bar in bars]
        drawn = axes.barh([literal(bar.name) for bar in bars], lengths, left=left, color=part.colour, label=part.name)
        labels = [f"{length:.0f}" if length >= 4 else "" for length in lengths]
        axes.bar_label(drawn, labels, label_type="center", color=part.ink, fontsize=8)
        left = [before + length for before, length in zip(left, lengths, strict=True)]
    axes.set(xlim=chart.x.limits, xlabel=literal(chart.x.title))
    if len(chart.parts) > 1:
        axes.legend(frameon=False, ncols=len(chart.parts), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def _parallel(chart: ParallelChart) -> Figure:
    figure = Figure(figsize=(max(7, 1.4 * len(chart.axes)), 3.2), layout="constrained")
    axes = figure.subplots()
    places = range(len(chart.axes))
    for line in chart.lines:
        axes.plot(places, line.places, color=line.colour, lw=1)
    for number, axis in enumerate(chart.axes):
        axes.axvline(number, color="0.4", lw=0.8)
        for height, text in axis.ticks:
            beside: dict[str, Any] = {"xytext": (-4, 0), "textcoords": "offset points"}
            axes.annotate(literal(text), (number, height), ha="right", va="center", fontsize=8, **beside)
    axes.set_xticks(places, [literal(axis.title) for axis in chart.axes])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.margins(x=0.08)
    return figure
