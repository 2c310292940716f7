"""The page's interactive figures, as Plotly's JSON: data and layout, without anything from Plotly itself.

A point's ``customdata`` is its trial's key, and a trace's ``meta`` its group (its method): by these the page's script
opens trials and leaves groups out. Bars have a group each.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from raydaa.reporting.figures import (
    COLOURS,
    KL_NAME,
    OUTCOMES,
    over_betas,
    over_shares,
    quality,
    quality_name,
    sft_share,
    share_name,
)
from raydaa.results import TrialResults
from raydaa.store.study_folder import PREFERENCE_LOSS
from raydaa.trial_row import TrialRow

Spec = dict[str, Any]
SYMBOLS = {"pairwise": "circle", "pointwise": "square"}
TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
# asinh of the KL: near zero as it is, and trials gone wrong, ten times farther out, still in sight.
KL_AXIS = {
    "title": {"text": KL_NAME},
    "tickvals": list(map(math.asinh, TICKS)),
    "ticktext": [f"{tick:g}" for tick in TICKS],
}


def plots(results: TrialResults, drawn: Iterable[str]) -> dict[str, Spec]:
    """The figures that `raydaa.reporting.figures.draw` has drawn, by its names."""
    return {name: PLOTTERS[name](results) for name in drawn}


def points(results: TrialResults, rows: Sequence[TrialRow], group: str, number: int, **more: Any) -> Spec:
    """Trials of a group at their quality, with intervals; its number chooses the colour, a symbol tells the ranking."""
    values = [quality(results, row) for row in rows]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(group),
        "meta": group,
        "y": [value for value, _, _ in values],
        "error_y": spread([above for _, _, above in values], [below for _, below, _ in values]),
        "customdata": [row.key for row in rows],
        "text": [hover(results, row) for row in rows],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "color": COLOURS[number % len(COLOURS)],
            "symbol": [SYMBOLS[row.ranking] for row in rows],
            "size": 8,
        },
        "line": {"width": 1.5, "dash": "solid" if number < len(COLOURS) else "dash"},
        **more,
    }


def _of_method(results: TrialResults, rows: Sequence[TrialRow], **more: Any) -> Spec:
    method = rows[0].method
    return points(results, rows, method, results.methods.index(method), **more)


def spread(above: Iterable[float], below: Iterable[float]) -> Spec:
    """Error bars, where there are any."""
    up, down = list(above), list(below)
    drawn = any(up) or any(down)
    return {"symmetric": False, "array": up, "arrayminus": down, "thickness": 1, "width": 0, "visible": drawn}


def hover(results: TrialResults, row: TrialRow) -> str:
    """What stands beside the pointer on a trial."""
    lines = [f"<b>{plain(row.title)}</b> ({row.ranking})"]
    if row.beta is not None:
        lines.append(f"β {row.beta:g}")
    lines += [f"learning rate {row.learning_rate:g}", f"from {plain(row.init)}"]
    if row.win_rate is not None:
        lines.append(f"win rate {row.win_rate:.1f} % [{row.win_rate_low:.1f}, {row.win_rate_high:.1f}]")
    if row.kl is not None:
        lines.append(f"KL {row.kl:.2f} [{row.kl_low:.2f}, {row.kl_high:.2f}] nats")
    if row.preference_loss is not None:
        lines.append(f"held-out preference loss {row.preference_loss:.3f}")
    return "<br>".join(lines)


def plain(value: str) -> str:
    """For Plotly, which reads a few tags in every text, and mathematics between dollars."""
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("$", "&#36;")


def quality_axis(results: TrialResults) -> Spec:
    """Up is better: a loss stands on its head."""
    title = {"title": {"text": plain(quality_name(results)).replace("\n", "<br>")}}
    return title if results.judged else {**title, "type": "log", "autorange": "reversed"}


def _pareto(results: TrialResults) -> Spec:
    data = []
    for method in results.methods:
        known = [row for row in results if row.method == method and row.finished and row.kl is not None]
        if known:
            data.append(_of_method(results, known, mode="markers", **kl_places(known)))
    front = results.pareto_front()
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": "nobody beats in both",
        "x": [math.asinh(row.kl or 0) for row in front],
        "y": [quality(results, row)[0] for row in front],
        "hoverinfo": "skip",
        "line": {"color": "#888", "width": 1},
    }
    return {"data": [line, *data], "layout": {"xaxis": KL_AXIS, "yaxis": quality_axis(results)}}


def kl_places(rows: Sequence[TrialRow]) -> Spec:
    """Trials on the axis of KL, with intervals."""
    names = ("kl_low", "kl", "kl_high")
    low, middle, high = ([math.asinh(getattr(row, name) or 0) for row in rows] for name in names)
    above, below = ([a - b for a, b in zip(*pair, strict=True)] for pair in ((high, middle), (middle, low)))
    return {"x": middle, "error_x": spread(above, below)}


def _beta_curve(results: TrialResults) -> Spec:
    curves = over_betas(results).items()
    data = [_of_method(results, list(best.values()), x=list(best), name=plain(title)) for title, best in curves]
    mark = {"type": "line", "x0": 1, "x1": 1, "yref": "paper", "y0": 0, "y1": 1}
    axis = {"title": {"text": "β"}, "type": "log", "dtick": 1}
    layout = {
        "xaxis": axis,
        "yaxis": quality_axis(results),
        "shapes": [{**mark, "line": {"color": "#888", "dash": "dot"}}],
    }
    return {"data": data, "layout": layout}


def _outcomes(results: TrialResults) -> Spec:
    rows = [row for row in results.best_of_each() if row.wins is not None][::-1]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": [plain(row.title) for row in rows],
            "x": [getattr(row, name) for row in rows],
            "meta": [row.method for row in rows],
            "customdata": [row.key for row in rows],
            "marker": {"color": colour},
            "hovertemplate": f"%{{y}}: %{{x:.1f}} % {name}<extra></extra>",
        }
        for name, (colour, _) in OUTCOMES.items()
    ]
    axis = {"title": {"text": "share of prompts (%)"}, "range": [0, 100]}
    height = 140 + 26 * len(rows)
    return {
        "data": data,
        "layout": {"barmode": "stack", "xaxis": axis, "height": height, "yaxis": {"automargin": True}},
    }


def _sft_curve(results: TrialResults) -> Spec:
    curves = over_shares(results).values()
    data = [_of_method(results, list(best.values()), x=list(map(share_name, best))) for best in curves]
    shares = sorted({share for row in results if (share := sft_share(row.init)) is not None})
    names = list(map(share_name, shares))
    axis = {"title": {"text": "share of the SFT examples"}, "type": "category", "categoryarray": names}
    return {"data": data, "layout": {"xaxis": {**axis, "categoryorder": "array"}, "yaxis": quality_axis(results)}}


def _learning_curves(results: TrialResults) -> Spec:
    curves: dict[str, list[tuple[TrialRow, list[float], list[float]]]] = defaultdict(list)
    for row in results:
        metrics = [m for m in results.at.trial(row.key).read_metrics() if PREFERENCE_LOSS in m]
        if metrics:
            steps, losses = [m["step"] / row.steps for m in metrics], [m[PREFERENCE_LOSS] for m in metrics]
            curves[row.method].append((row, steps, losses))
    data = []
    for method, found in curves.items():
        for place, (row, shares, losses) in enumerate(found):
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": plain(method),
                    "meta": method,
                    "legendgroup": method,
                    "showlegend": place == 0,
                    "x": shares,
                    "y": losses,
                    "customdata": [row.key] * len(shares),
                    "text": [f"{plain(row.label)}, {row.state}"] * len(shares),
                    "hovertemplate": "%{text}<br>%{y:.3f} nats<extra></extra>",
                    "opacity": 1 if row.finished else 0.35,
                    "line": {"color": COLOURS[results.methods.index(method) % len(COLOURS)], "width": 1.2},
                    "marker": {"size": 4},
                }
            )
    y = {"title": {"text": "held-out preference loss (nats)"}, "type": "log"}
    return {"data": data, "layout": {"xaxis": {"title": {"text": "share of the trial's steps"}}, "yaxis": y}}


PLOTTERS: dict[str, Callable[[TrialResults], Spec]] = {
    "pareto": _pareto,
    "beta_curve": _beta_curve,
    "outcomes": _outcomes,
    "sft_curve": _sft_curve,
    "learning_curves": _learning_curves,
}
