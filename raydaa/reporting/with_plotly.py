"""Charts for pages, as Plotly's JSON: data and layout, without anything from Plotly itself.

A point's ``customdata`` is its trial's key, and a trace's ``meta`` its group: by these the page's script opens trials
and leaves groups out. Bars have a group each.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

from raydaa.reporting.chart import COLOURS, AnyChart, Axis, BarChart, Guide, ParallelChart, Series

Spec = dict[str, Any]
SYMBOLS = {"pairwise": "circle", "pointwise": "square"}
TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of a stretched axis


def plain(value: str) -> str:
    """For Plotly, which reads a few tags in every text, and mathematics between dollars."""
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("$", "&#36;")


def spec_of(chart: AnyChart) -> Spec:
    """One chart as data and layout."""
    if isinstance(chart, BarChart):
        return _bars(chart)
    if isinstance(chart, ParallelChart):
        return _parallel(chart)
    place_x, place_y = _placer(chart.x), _placer(chart.y)
    lines = [_line(guide, place_x, place_y) for guide in chart.guides if guide.points]
    data = [*lines, *(_series(series, place_x, place_y) for series in chart.series)]
    shapes = [shape for guide in chart.guides for shape in _shapes(guide, place_x, place_y)]
    return {"data": data, "layout": {"xaxis": _axis(chart.x), "yaxis": _axis(chart.y), "shapes": shapes}}


def _placer(axis: Axis) -> Callable[[float], float]:
    """Where a value lies on an axis: a stretched one is asinh of it, near zero as it is."""
    return math.asinh if axis.scale == "stretched" else float


def _series(series: Series, place_x: Callable[[float], float], place_y: Callable[[float], float]) -> Spec:
    marks = series.marks
    beside = ["<br>".join([f"<b>{plain(m.facts[0])}</b>", *map(plain, m.facts[1:])]) if m.facts else "" for m in marks]
    return {
        "type": "scatter",
        "mode": "lines+markers" if series.joined else "markers",
        "name": plain(series.name),
        "meta": series.group,
        "legendgroup": series.group,
        "showlegend": series.listed,
        "x": [place_x(mark.x.value) for mark in marks],
        "y": [place_y(mark.y.value) for mark in marks],
        "error_x": _errors(((mark.x.value, *mark.x.errors) for mark in marks), place_x),
        "error_y": _errors(((mark.y.value, *mark.y.errors) for mark in marks), place_y),
        "customdata": [mark.trial for mark in marks],
        "text": beside,
        "hovertemplate": "%{text}<extra></extra>",
        "opacity": 0.35 if series.pale else 1,
        "marker": {
            "color": COLOURS[series.colour % len(COLOURS)],
            "symbol": [SYMBOLS[mark.ranking] for mark in marks],
            "size": 8,
            "opacity": [0.3 if mark.faint else 1 for mark in marks],
        },
        "line": {"width": 1.5, "dash": "solid" if series.colour < len(COLOURS) else "dash"},
    }


def _errors(values: Iterable[tuple[float, float, float]], shift: Callable[[float], float]) -> Spec:
    """Error bars, where there are any; given are values and how far they reach below and above."""
    above, below = [], []
    for value, under, over in values:
        above.append(shift(value + over) - shift(value))
        below.append(shift(value) - shift(value - under))
    drawn = any(above) or any(below)
    return {"symmetric": False, "array": above, "arrayminus": below, "thickness": 1, "width": 0, "visible": drawn}


def _line(guide: Guide, place_x: Callable[[float], float], place_y: Callable[[float], float]) -> Spec:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": guide.name or "",
        "showlegend": guide.name is not None,
        "x": [place_x(x) for x, _ in guide.points],
        "y": [place_y(y) for _, y in guide.points],
        "hoverinfo": "skip",
        "line": {"color": "#888", "width": 1},
    }


def _shapes(guide: Guide, place_x: Callable[[float], float], place_y: Callable[[float], float]) -> Iterable[Spec]:
    line = {"color": "#888", "dash": "dot", "width": 1}
    if guide.at_x is not None:
        x = place_x(guide.at_x)
        yield {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line}
    if guide.at_y is not None:
        y = place_y(guide.at_y)
        yield {"type": "line", "y0": y, "y1": y, "xref": "paper", "x0": 0, "x1": 1, "line": line}


def _axis(axis: Axis) -> Spec:
    spec: Spec = {"title": {"text": plain(axis.title).replace("\n", "<br>")}}
    if axis.scale == "log":
        spec |= {"type": "log"}
    if axis.scale == "stretched":
        spec |= {"tickvals": list(map(math.asinh, TICKS)), "ticktext": [f"{tick:g}" for tick in TICKS]}
    if axis.categories:
        spec |= {"tickvals": list(range(len(axis.categories))), "ticktext": list(map(plain, axis.categories))}
    if axis.limits is not None:
        spec |= {"range": list(axis.limits)}
    if axis.reversed:
        spec |= {"autorange": "reversed"}
    return spec


def _bars(chart: BarChart) -> Spec:
    bars = chart.bars[::-1]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": plain(part.name),
            "y": [plain(bar.name) for bar in bars],
            "x": [bar.lengths[number] for bar in bars],
            "meta": [bar.group for bar in bars],
            "customdata": [bar.trial for bar in bars],
            "marker": {"color": part.colour},
            "hovertemplate": f"%{{y}}: %{{x:.1f}} % {plain(part.name)}<extra></extra>",
        }
        for number, part in enumerate(chart.parts)
    ]
    height = 140 + 26 * len(bars)
    layout = {"barmode": "stack", "xaxis": _axis(chart.x), "height": height, "yaxis": {"automargin": True}}
    if len(chart.parts) == 1:
        layout["showlegend"] = False
    return {"data": data, "layout": layout}


def _parallel(chart: ParallelChart) -> Spec:
    places = list(range(len(chart.axes)))
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": places,
            "y": list(line.places),
            "line": {"color": line.colour, "width": 1.5},
            "text": "<br>".join(map(plain, line.facts)),
            "hovertemplate": "%{text}<extra></extra>",
        }
        for line in chart.lines
    ]
    shapes: list[Spec] = []
    ticks: list[Spec] = []
    for number, axis in enumerate(chart.axes):
        shapes.append(
            {"type": "line", "x0": number, "x1": number, "y0": 0, "y1": 1, "line": {"color": "#888", "width": 1}}
        )
        for height, text in axis.ticks:
            at = {"x": number, "y": height, "text": plain(text), "showarrow": False}
            ticks.append({**at, "xanchor": "right", "xshift": -4, "font": {"size": 10}})
    titles = [plain(axis.title) for axis in chart.axes]
    upright = {"visible": False, "range": [-0.05, 1.05]}
    level = {"tickvals": places, "ticktext": titles, "range": [-0.5, len(places) - 0.8], "showgrid": False}
    layout = {"xaxis": level, "yaxis": upright, "shapes": shapes, "annotations": ticks, "showlegend": False}
    return {"data": data, "layout": {**layout, "height": 320}}
