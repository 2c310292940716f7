"""The figures of a report, drawn with matplotlib: each as SVG (for the page), PNG and PDF."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from cycler import cycler
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from raydaa.results import TrialResults
from raydaa.store.study_folder import PREFERENCE_LOSS
from raydaa.trial_row import TrialRow

# Okabe and Ito's colours, which the colour-blind can tell apart; the marker says the same once more.
FAMILIES = {"pairwise": ("#0072B2", "o"), "pointwise": ("#D55E00", "s")}
OUTCOMES = {"wins": ("#009E73", "white"), "ties": ("#D9D9D9", "black"), "losses": ("#CC79A7", "white")}
LINES = ("-", "--")
KL_NAME = "KL from the start (nats per response)"
# Okabe and Ito's again, for methods.
COLOURS = "#0072B2 #E69F00 #009E73 #D55E00 #56B4E9 #CC79A7 #7F7F7F #999933 #882255 #44AA99".split()
STYLE = {
    "svg.hashsalt": "raydaa",
    "axes.prop_cycle": cycler(color=COLOURS),
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def quality_name(results: TrialResults) -> str:
    """What the vertical axes show."""
    return f"win rate (%)\n{results.judged_by}" if results.judged else "held-out preference loss (nats)"


def literal(text: str) -> str:
    """For matplotlib, which reads mathematics between dollars."""
    return text.replace("$", r"\$")


def quality(results: TrialResults, row: TrialRow) -> tuple[float, float, float]:
    """What the vertical axes show of a trial: quality with its error bars (0 where there is no interval)."""
    if row.win_rate is not None and row.win_rate_low is not None and row.win_rate_high is not None:
        return row.win_rate, row.win_rate - row.win_rate_low, row.win_rate_high - row.win_rate
    return -results.quality(row), 0.0, 0.0


def scaled(axes: Any, results: TrialResults) -> None:
    """Up is better: a loss stands on its head."""
    if not results.judged:
        _logarithmic(axes)
        axes.invert_yaxis()


def _logarithmic(axes: Any) -> None:
    """A loss in logarithms: trials gone wrong are worse by far."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    low, high = sorted(axes.get_ylim())
    axes.yaxis.set_minor_formatter("{x:.3g}" if high < 5 * low else "")  # a short axis may have no power of ten


def over_kl(axes: Any, results: TrialResults) -> None:
    """Trials gone wrong lie ten times farther out than the others: a linear axis would hide everybody else."""
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel=KL_NAME, ylabel=literal(quality_name(results)))


def pareto(results: TrialResults) -> Figure:
    """Quality against KL for every finished trial, with intervals; the front as a line."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for family, (colour, marker) in FAMILIES.items():
        rows = [row for row in results if row.finished and row.ranking == family and row.kl is not None]
        for row in rows:
            value, below, above = quality(results, row)
            kl, low, high = row.kl or 0.0, row.kl_low or 0.0, row.kl_high or 0.0
            spread = [[max(0.0, kl - low)], [max(0.0, high - kl)]]
            axes.errorbar(kl, value, xerr=spread, yerr=[[below], [above]], color=colour, marker=marker, ms=5, lw=0.8)
        if rows:
            axes.plot([], [], color=colour, marker=marker, ls="", label=family)
    front = results.pareto_front()
    axes.plot([row.kl for row in front], [quality(results, row)[0] for row in front], color="0.4", lw=1, zorder=0)
    for place, row in enumerate(front):
        axes.annotate(
            literal(row.method if row.beta is None else f"{row.method} β={row.beta:g}"),
            (row.kl or 0.0, quality(results, row)[0]),
            textcoords="offset points",
            # Neighbours on a front lie close: their names take turns above left and below right.
            xytext=(-6, 7) if place % 2 else (6, -11),
            ha="right" if place % 2 else "left",
            fontsize=8,
        )
    scaled(axes, results)
    if results.judged:
        axes.axhline(50, color="0.7", lw=0.8, ls=":")
    over_kl(axes, results)
    axes.set_xlim(left=min([0.0, *(row.kl_low or 0.0 for row in results)]))
    axes.legend(frameon=False, loc="lower left")
    return figure


def beta_curve(results: TrialResults) -> Figure:
    """For each method the quality of the best finished trial at each β; dotted, that at β = 1."""
    curves = over_betas(results)
    columns = min(4, max(1, len(curves)))
    lines = max(1, -(-len(curves) // columns))
    figure, grid = plt.subplots(
        lines,
        columns,
        figsize=(2.3 * columns + 0.8, 2.2 * lines + 0.4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, (method, curve) in zip(grid.flat, curves.items(), strict=False):
        colour, marker = FAMILIES[next(iter(curve.values())).ranking]
        values = [(beta, *quality(results, row)) for beta, row in curve.items()]
        betas, middle, below, above = zip(*values, strict=True)
        axes.errorbar(betas, middle, yerr=[below, above], color=colour, marker=marker, ms=4, lw=1)
        if 1.0 in curve:  # what a method that was published without a β comes to
            axes.axhline(quality(results, curve[1.0])[0], color="0.6", lw=0.8, ls=":")
        axes.set(xscale="log", title=literal(method))
        axes.set_xticks(betas, [f"{beta:g}" for beta in betas], minor=False, rotation=45 if len(betas) > 4 else 0)
        axes.set_xticks([], minor=True)
        axes.margins(x=0.2)
        scaled(axes, results)
    for axes in list(grid.flat)[len(curves) :]:
        axes.set_axis_off()
    figure.supxlabel("β", fontsize=10)
    figure.supylabel(literal(quality_name(results)), fontsize=10)
    return figure


def learning_curves(results: TrialResults) -> Figure:
    """Held-out preference loss of every trial over the share of its steps; stopped trials end early."""
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for row in results:
        colour, _ = FAMILIES[row.ranking]
        points = [
            (metrics["step"] / row.steps, metrics[PREFERENCE_LOSS])
            for metrics in results.at.trial(row.key).read_metrics()
            if PREFERENCE_LOSS in metrics
        ]
        if points:
            shares, values = zip(*points, strict=True)
            axes.plot(shares, values, color=colour, lw=0.9, alpha=1 if row.finished else 0.35, marker=".")
    for family, (colour, _) in FAMILIES.items():
        axes.plot([], [], color=colour, label=family)
    _logarithmic(axes)
    axes.set(xlabel="share of the trial's steps", ylabel="held-out preference loss (nats)")
    axes.legend(frameon=False)
    return figure


def outcomes(results: TrialResults) -> Figure:
    """Wins, ties and losses of the best trial of each method, best at the top."""
    rows = [row for row in results.best_of_each() if row.wins is not None][::-1]
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.32 * len(rows)), layout="constrained")
    left = [0.0] * len(rows)
    for name, (colour, ink) in OUTCOMES.items():
        shares = [float(getattr(row, name)) for row in rows]
        bars = axes.barh([literal(row.title) for row in rows], shares, left=left, color=colour, label=name)
        axes.bar_label(bars, [f"{s:.0f}" if s >= 4 else "" for s in shares], label_type="center", color=ink, fontsize=8)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.set(xlim=(0, 100), xlabel=literal(f"share of prompts (%), {results.judged_by}"))
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def sft_curve(results: TrialResults) -> Figure:
    """The best finished trial of each method from each share of the SFT data, the base model at 0."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for method, curve in over_shares(results).items():
        number = results.methods.index(method)
        values = [(share, *quality(results, row)) for share, row in curve.items()]
        shares, middle, below, above = zip(*values, strict=True)
        family = FAMILIES[next(iter(curve.values())).ranking][1]
        style = {"color": f"C{number}", "marker": family, "ls": LINES[number // 10 % len(LINES)]}
        axes.errorbar(shares, middle, yerr=[below, above], ms=4, lw=1, elinewidth=0.6, label=literal(method), **style)
    ticks = sorted({share for row in results if (share := sft_share(row.init)) is not None})
    axes.set_xscale("symlog", linthresh=0.01, linscale=0.5)
    axes.set_xticks(ticks, list(map(share_name, ticks)), minor=False)
    axes.set_xticks([], minor=True)
    scaled(axes, results)
    axes.set(xlabel="share of the SFT examples", ylabel=literal(quality_name(results)))
    axes.legend(frameon=False, ncols=5, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def over_betas(results: TrialResults) -> dict[str, dict[float, TrialRow]]:
    """The best finished trial of each title at each β, which rises."""
    return _curves(results, lambda row: (row.title, row.beta))


def over_shares(results: TrialResults) -> dict[str, dict[float, TrialRow]]:
    """The best finished trial of each method from each share of the SFT data, which rises."""
    return _curves(results, lambda row: (row.method, sft_share(row.init)))


def _curves(
    results: TrialResults, of: Callable[[TrialRow], tuple[str, float | None]]
) -> dict[str, dict[float, TrialRow]]:
    """Where ``of`` tells a trial's curve and its place on it, None for one that has none."""
    curves: dict[str, dict[float, TrialRow]] = defaultdict(dict)
    for row in results:
        name, place = of(row)
        if row.finished and place is not None:
            curves[name][place] = max(curves[name].get(place, row), row, key=results.quality)
    return {name: dict(sorted(curve.items())) for name, curve in curves.items()}


def sft_share(init: str) -> float | None:
    """The share of the SFT data that a start has seen, 1 for a study's largest; None for a model from elsewhere."""
    if init in ("base", "sft"):
        return float(init == "sft")
    return float(init.removeprefix("sft:")) if init.startswith("sft:") else None


def share_name(share: float) -> str:
    """As an axis says it."""
    return {0.0: "base", 1.0: "sft"}.get(share, f"{100 * share:.3g} %")


def draw(results: TrialResults, folder: Path) -> dict[str, Path]:
    """Write every figure that the results allow into ``folder``; name → SVG path."""
    drawers: dict[str, Any] = {"beta_curve": beta_curve, "learning_curves": learning_curves}
    if any(row.kl is not None for row in results):
        drawers = {"pareto": pareto, **drawers}
    if any(row.wins is not None for row in results):
        drawers["outcomes"] = outcomes
    if len({sft_share(row.init) for row in results} - {None}) > 1:
        drawers["sft_curve"] = sft_curve
    return save({name: partial(drawer, results) for name, drawer in drawers.items()}, folder)


def save(drawers: dict[str, Callable[[], Figure]], folder: Path) -> dict[str, Path]:
    """Draw each figure in the reports' style, as SVG, PNG and PDF; name → SVG path."""
    paths = {}
    with plt.rc_context(STYLE):
        for name, drawer in drawers.items():
            figure = drawer()
            paths[name] = folder / f"{name}.svg"
            # Without a date the same results give the same file.
            figure.savefig(paths[name], metadata={"Date": None})
            figure.set_layout_engine("none")  # it was laid out: once is enough
            figure.savefig(folder / f"{name}.png", dpi=150)
            figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
            plt.close(figure)
    return paths
