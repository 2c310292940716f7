"""The figures of reports: which trials each shows, where, and what it says of them. A new figure is a function here."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from raydaa.reporting.chart import AnyChart, Axis, Bar, BarChart, Chart, Guide, Mark, Part, Series, Value
from raydaa.reporting.formatting import distance, rate
from raydaa.results import TrialResults
from raydaa.store.records import PREFERENCE_LOSS
from raydaa.trial_row import TrialRow

OUTCOMES = (Part("wins", "#009E73", "white"), Part("ties", "#D9D9D9", "black"), Part("losses", "#CC79A7", "white"))
KL_AXIS = Axis("KL from the start (nats per response)", "stretched")
Studies = Mapping[str, TrialResults]


def charts(results: TrialResults) -> list[AnyChart]:
    """Every figure that the results allow, in the report's order."""
    drawn = [chart(results) for chart in (pareto, beta_curve, outcomes, sft_curve, learning_curves)]
    return [chart for chart in drawn if chart is not None]


def comparison_charts(studies: Studies) -> list[AnyChart]:
    """Every figure of several studies."""
    fronts = fronts_of_studies(studies)
    return [methods_of_studies(studies), *([] if fronts is None else [fronts])]


def pareto(results: TrialResults) -> Chart | None:
    """Quality against KL for every finished setting; the front as a line, with names."""
    fronts = results.pareto_fronts()
    names = {row.key: _name(row) for front in fronts.values() for row in front}
    series = []
    for method in results.methods:
        rows = [row for row in results.settings if row.title == method and row.kl is not None]
        marks = [
            _mark(results, row, _kl(row), note=names.get(row.key), faint=not results.may_be_on_front(row))
            for row in rows
        ]
        if marks:
            series.append(_of_method(results, method, marks))
    if not series:
        return None
    guides: list[Guide] = []
    for start, front in fronts.items():
        line = tuple((row.kl or 0.0, results.ranking.value_of(row)) for row in front)
        guides.append(Guide(points=line, name=f"front from {start}" if len(fronts) > 1 else "nobody beats in both"))
    if results.judged:
        guides.append(Guide(at_y=50.0))
    caption = (
        "Quality against distance from the start. A line joins the settings of one start that no other beats in both; "
        "pale ones are beaten in both in at least 95 % of all draws of the prompts."
    )
    return Chart("pareto", caption, KL_AXIS, _quality_axis(results), tuple(series), tuple(guides))


def beta_curve(results: TrialResults) -> Chart | None:
    """The best setting of each method at each β."""
    curves = _curves(results, lambda row: (row.title, row.beta))
    series = []
    for title, curve in curves.items():
        marks = [_mark(results, row, Value(beta)) for beta, row in curve.items()]
        series.append(_of_method(results, title, marks, joined=True, panel=title))
    if not series:
        return None
    caption = (
        "The best setting of each method at each β (over learning rates), the mean over its seeds, and where β is 1, "
        "which is what a method that was published without one comes to."
    )
    return Chart("beta_curve", caption, Axis("β", "log"), _quality_axis(results), tuple(series), (Guide(at_x=1.0),))


def outcomes(results: TrialResults) -> BarChart | None:
    """Wins, ties and losses of the best setting of each method, best first."""
    bars = []
    for row in results.best_of_each():
        if row.rate is not None:
            bars.append(Bar(row.title, row.title, row.key, (row.rate.wins, row.rate.ties, row.rate.losses)))
    if not bars:
        return None
    axis = Axis(f"share of prompts (%), {results.judged_by}", limits=(0.0, 100.0))
    caption = "How the best setting of each method fares against the baseline, prompt by prompt."
    return BarChart("outcomes", caption, axis, OUTCOMES, tuple(bars))


def sft_curve(results: TrialResults) -> Chart | None:
    """The best setting of each method from each share of the SFT examples, the base model first."""
    shares = sorted({share for row in results if (share := sft_share(row.init)) is not None})
    if len(shares) < 2:
        return None
    series = []
    for method, curve in _curves(results, lambda row: (row.title, sft_share(row.init))).items():
        marks = [_mark(results, row, Value(float(shares.index(share)))) for share, row in curve.items()]
        series.append(_of_method(results, method, marks, joined=True))
    axis = Axis("share of the SFT examples", categories=tuple(map(share_name, shares)))
    caption = (
        "How much SFT each method needs: its best setting from each share of the examples (squares: pointwise methods)."
    )
    return Chart("sft_curve", caption, axis, _quality_axis(results), tuple(series))


def learning_curves(results: TrialResults) -> Chart | None:
    """Held-out preference loss of every trial over the share of its steps; stopped trials end early."""
    series = []
    listed: set[str] = set()
    for row in results:
        marks = []
        for metrics in results.at.trial(row.key).read_metrics():
            if PREFERENCE_LOSS in metrics:
                loss = metrics[PREFERENCE_LOSS]
                facts = (f"{row.label}, {row.state}", f"{loss:.3f} nats")
                x = Value(metrics["step"] / row.trial.steps)
                marks.append(Mark(x, Value(loss), row.key, row.ranking, facts))
        if marks:
            first = row.title not in listed
            listed.add(row.title)
            series.append(_of_method(results, row.title, marks, joined=True, pale=not row.finished, listed=first))
    if not series:
        return None
    y = Axis("held-out preference loss (nats)", "log")
    caption = "Held-out preference loss, by which trials compete; pale curves were stopped early."
    return Chart("learning_curves", caption, Axis("share of the trial's steps"), y, tuple(series))


def methods_of_studies(studies: Studies) -> Chart:
    """The best setting of each method in each study."""
    methods = all_methods(studies)
    series = []
    for number, (name, results) in enumerate(studies.items()):
        aside = 0.6 * ((number + 0.5) / len(studies) - 0.5)
        marks = []
        for row in results.best_of_each():
            marks.append(_mark(results, row, Value(methods.index(row.title) + aside), study=name))
        series.append(Series(name, name, number, tuple(marks)))
    axis = Axis("", categories=tuple(methods))
    first = next(iter(studies.values()))
    caption = "The best setting of each method in each study."
    return Chart("methods", caption, axis, _quality_axis(first), tuple(series))


def all_methods(studies: Studies) -> list[str]:
    """Of any study, in the order of the first that has it."""
    return list(dict.fromkeys(method for results in studies.values() for method in results.methods))


def fronts_of_studies(studies: Studies) -> Chart | None:
    """The Pareto fronts of each study."""
    series = []
    for number, (name, results) in enumerate(studies.items()):
        for start, front in results.pareto_fronts().items():
            marks = [_mark(results, row, _kl(row), study=name) for row in front]
            title = f"{name} from {start}" if len(results.pareto_fronts()) > 1 else name
            series.append(Series(title, name, number, tuple(marks), joined=True))
    if not series:
        return None
    first = next(iter(studies.values()))
    caption = "What nobody beats in quality and distance from the start, study by study."
    return Chart("pareto", caption, KL_AXIS, _quality_axis(first), tuple(series))


def _of_method(
    results: TrialResults,
    method: str,
    marks: Iterable[Mark],
    name: str | None = None,
    joined: bool = False,
    pale: bool = False,
    listed: bool = True,
    panel: str | None = None,
) -> Series:
    number = results.methods.index(method)
    return Series(name or method, method, number, tuple(marks), joined, pale, listed, panel)


def _mark(
    results: TrialResults,
    row: TrialRow,
    x: Value,
    note: str | None = None,
    study: str | None = None,
    faint: bool = False,
) -> Mark:
    """A trial at its quality, with what is to be said of it."""
    y = Value(results.ranking.value_of(row))
    if row.rate is not None:
        y = Value(row.rate.value, row.rate.low, row.rate.high)
    key = row.key if study is None else f"{study}/{row.key}"
    return Mark(x, y, key, row.ranking, tuple(_facts(row)), note, faint)


def _facts(row: TrialRow) -> Iterable[str]:
    yield f"{row.title} ({row.ranking})"
    if row.beta is not None:
        yield f"β {row.beta:g}"
    yield f"learning rate {row.learning_rate:g}"
    yield f"from {row.init}"
    if len(row.seeds) > 1:
        yield f"mean of {len(row.seeds)} seeds"
    if row.rate is not None:
        yield f"win rate {rate(row.rate)} %"
    if row.divergence is not None:
        yield f"KL {distance(row.divergence)} nats"
    if row.preference_loss is not None:
        yield f"held-out preference loss {row.preference_loss:.3f}"


def _kl(row: TrialRow) -> Value:
    assert row.divergence is not None
    return Value(row.divergence.per_response, row.divergence.low, row.divergence.high)


def _name(row: TrialRow) -> str:
    return row.title if row.beta is None else f"{row.title} β={row.beta:g}"


def _quality_axis(results: TrialResults) -> Axis:
    """Up is better: a loss stands on its head, and in logarithms, for trials gone wrong are worse by far."""
    ranking = results.ranking
    if ranking.higher_is_better:
        return Axis(f"{ranking.name} ({ranking.unit})\n{results.judged_by}")
    return Axis(f"{ranking.name} ({ranking.unit})", "log", reversed=True)


def _curves(
    results: TrialResults, of: Callable[[TrialRow], tuple[str, float | None]]
) -> dict[str, dict[float, TrialRow]]:
    """The best setting at each place of each curve; ``of`` tells a setting's curve and its place on it, None for one
    that has none."""
    curves: dict[str, dict[float, TrialRow]] = defaultdict(dict)
    for row in results.settings:
        name, x = of(row)
        if x is not None and math.isfinite(results.ranking.value_of(row)):
            curves[name][x] = max(curves[name].get(x, row), row, key=results.rank)
    return {name: dict(sorted(curve.items())) for name, curve in curves.items()}


def sft_share(init: str) -> float | None:
    """The share of the SFT data that a start has seen, 1 for a study's largest; None for a model from elsewhere."""
    if init in ("base", "sft"):
        return float(init == "sft")
    return float(init.removeprefix("sft:")) if init.startswith("sft:") else None


def share_name(share: float) -> str:
    """As an axis says it."""
    return {0.0: "base", 1.0: "sft"}.get(share, f"{100 * share:.3g} %")
