"""The tables of a report: every figure as a person reads it."""

import math
from collections.abc import Mapping, Sequence

from raydaa.evaluation.comparison import Comparison
from raydaa.evaluation.figures import BenchmarkFigures, ModelFigures
from raydaa.reporting.costs import Costs
from raydaa.reporting.edges import edges
from raydaa.reporting.formatting import Table, controlled, distance, number, p_value, rate, with_interval, won
from raydaa.reporting.scores import BENCHMARKS_HEADER, benchmark_table, harness_table
from raydaa.results import TrialResults
from raydaa.trial_row import TrialRow


def tables(results: TrialResults, comparisons: Sequence[Comparison], spent: Costs) -> dict[str, Table]:
    """Every table that the results allow, by name and in the report's order."""
    tables = {"best": Table("Best setting of each method", BEST_HEADER, best_table(results))}
    if len({_stages(row) for row in results}) > 1:
        tables["stages"] = Table("Best setting from each start", STAGES_HEADER, stages_table(results))
    if at_edges := edges_table(results):
        tables["edges"] = Table("At the edge of what was tried", EDGES_HEADER, at_edges)
    if comparisons:
        tables["pairs"] = Table("Methods against each other", _pairs_header(comparisons), pairs_table(comparisons))
    if results.benchmarks:
        tables["benchmarks"] = Table("Benchmarks", BENCHMARKS_HEADER, benchmark_table(results))
    if results.harness:
        tables["harness"] = Table("LM Evaluation Harness", ("task", "metric", *results.harness), harness_table(results))
    tables["costs"] = costs_table(spent)
    tables["trials"] = Table("All trials", TRIALS_HEADER, trials_table(results))
    return tables


def settings_of(row: TrialRow) -> list[str]:
    """What a trial has beside method, β and learning rate, where it is not as usual."""
    values = ["from " + row.init] if row.init != "sft" else []
    values += [f"SFT weight {row.trial.point.sft_weight:g}"] if row.trial.point.sft_weight else []
    return [*values, *_rest(row)]


def _rest(row: TrialRow) -> list[str]:
    left_out = ("beta", "length_normalized")
    values = [f"{name} {value:g}" for name, value in row.parameters.items() if name not in left_out]
    values += [f"alignment weight {row.trial.point.align_weight:g}"] if row.trial.point.align_weight != 1 else []
    values += [f"{row.trial.point.fraction:.3g} of the pairs"] if row.trial.point.fraction != 1 else []
    return values + [f"{name.replace('_', ' ')} {value}" for name, value in row.trial.point.training.items()]


def _joined(values: list[str]) -> str:
    return ", ".join(values) or "–"


NOT_ALIGNED = math.log(2)  # held-out preference loss of a model that is its own reference
FIGURES = (
    "win rate (%)",
    "KL (nats)",
    "held-out preference loss",
    "accuracy",
    "margin (the method's own scale)",
    "length (tokens)",
    "tokens/s",
)
CORRECTED = "without the choice's optimism"
BEST_HEADER = (
    "method",
    "ranking",
    "β",
    "learning rate",
    "other settings",
    "seeds",
    FIGURES[0],
    CORRECTED,
    *FIGURES[1:],
)
STAGES_HEADER = (
    "method",
    "start",
    "SFT term",
    "β",
    "other settings",
    "learning rate",
    "win rate (%)",
    "length-controlled (%)",
    "ArenaHard score (%)",
    "KL (nats)",
)
EDGES_HEADER = ("method", "setting", "best value", "of those tried the", "towards it", "try next")
REACH = "smallest difference in reach"
TRIALS_HEADER = ("trial", "state", "steps", "loss (the method's own scale)", *FIGURES, "seconds", "start (s)")


def best_table(results: TrialResults) -> list[list[str]]:
    """The best setting of each method, best first, then the models judged beside them."""
    table = []
    for row in results.best_of_each():
        settings = [_beta(row), f"{row.learning_rate:g}", _joined(settings_of(row)), str(len(row.seeds))]
        shown, *others = _figures(row)
        table.append(
            [row.title, row.ranking, *settings, shown, without_optimism(row, results.optimism_of(row)), *others]
        )
    first = results.evaluation.first_benchmark
    starts = {row.init for row in results}
    for name in dict.fromkeys([*results.models, *(row.init for row in results)]):
        figures = results.models.get(name, ModelFigures()).benchmarks.get(first)
        length = None if figures is None else figures.responses.mean_length
        # Of a start held-out pairs are measured against itself.
        beside = ["0", f"{NOT_ALIGNED:.3f}"] if name in starts else ["–", "–"]
        what = "where trials started" if name in starts else "judged beside the trials"
        rest = ["–", *beside, "–", "–", number(length, 1), "–"]
        table.append([f"({name})", "–", "–", "–", what, "–", won(figures), *rest])
    return table


def without_optimism(row: TrialRow, lost: float) -> str:
    """A win rate, or a held-out loss, without what it owes to having been chosen for its value."""
    if row.rate is None:
        if row.held_out is None:
            return "–"
        return with_interval(row.held_out.value + lost, row.held_out.low + lost, row.held_out.high + lost, 3)
    return with_interval(row.rate.value - lost, max(0.0, row.rate.low - lost), row.rate.high - lost)


def _stages(row: TrialRow) -> tuple[str, bool]:
    """Where a trial started, and whether it went on with SFT."""
    return row.init, row.trial.point.sft_weight > 0


def stages_table(results: TrialResults) -> list[list[str]]:
    """The best setting of each method from each start, with and without the SFT term, below what they started from."""
    best: dict[tuple[str, str, bool], TrialRow] = {}
    for row in results.settings:
        kind = (row.title, *_stages(row))
        best[kind] = max(best.get(kind, row), row, key=results.rank)
    table = [
        [f"({name})", "–", "–", "–", "–", "–", *_scores(results, model.benchmarks), "–"]
        for name, model in results.models.items()
    ]
    for row in sorted(best.values(), key=lambda row: (results.methods.index(row.title), _stages(row))):
        settings = [_beta(row), _joined(_rest(row)), f"{row.learning_rate:g}"]
        settings = [row.init, "yes" if row.trial.point.sft_weight else "no", *settings]
        table.append([row.title, *settings, *_scores(results, row.benchmarks), distance(row.divergence)])
    return table


def _scores(results: TrialResults, benchmarks: Mapping[str, BenchmarkFigures]) -> list[str]:
    """Win rate and length-controlled win rate on the first benchmark, and ArenaHard's score where it is asked for."""
    figures = benchmarks.get(results.benchmarks[0].name) if results.benchmarks else None
    arena = next((on_benchmark.arena for on_benchmark in benchmarks.values() if on_benchmark.arena is not None), None)
    return [won(figures), controlled(figures), rate(arena)]


def _beta(row: TrialRow) -> str:
    return "–" if row.beta is None else f"{row.beta:g}"


def costs_table(costs: Costs) -> Table:
    """What each method's trials took and were spared; what no trial says, as on a CPU, has no column."""
    columns = {
        "method": [method.method for method in costs.methods],
        "trials": [str(method.trials) for method in costs.methods],
        "stopped early": [str(method.stopped) for method in costs.methods],
        costs.unit: [f"{method.hours:.3g}" for method in costs.methods],
        "cost": ["–" if costs.price is None else f"{method.hours * costs.price:.2f}" for method in costs.methods],
        "tokens/s": [number(method.tokens_per_second, 0) for method in costs.methods],
        "MFU (%)": [number(_times(method.mfu, 100), 1) for method in costs.methods],
        "padding (%)": [number(_times(method.padding, 100), 1) for method in costs.methods],
        "peak memory (GB)": [number(_times(method.peak_memory, 1e-9), 1) for method in costs.methods],
        "attention": [method.attention for method in costs.methods],
        f"saved by early stopping ({costs.unit})": [f"{method.saved_by_stopping:.3g}" for method in costs.methods],
        f"saved by the reference store ({costs.unit})": [
            "–" if method.saved_by_reference is None else f"{method.saved_by_reference:.3g}" for method in costs.methods
        ],
    }
    shown = [name for name, cells in columns.items() if name not in MAYBE or any(cell != "–" for cell in cells)]
    rows = [list(row) for row in zip(*(columns[name] for name in shown), strict=True)]
    return Table("What the trials took", tuple(shown), rows)


MAYBE = ("cost", "MFU (%)", "padding (%)", "peak memory (GB)", "attention")


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def edges_table(results: TrialResults) -> list[list[str]]:
    """The methods' best settings that have the highest or the lowest of their values."""
    return [[edge.row.title, edge.name, f"{edge.value:g}", edge.end, edge.curve, edge.tries] for edge in edges(results)]


def _pairs_header(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    unit = comparisons[0].unit
    what = f"difference ({unit})" if unit == "points" else f"lower loss by ({unit})"
    return "method", "against", what, "p", "different", "prompts" if unit == "points" else "pairs", REACH


def pairs_table(comparisons: Sequence[Comparison]) -> list[list[str]]:
    """The methods' best settings against each other."""
    return [
        [
            comparison.one,
            comparison.other,
            with_interval(comparison.difference, comparison.low, comparison.high, comparison.digits),
            p_value(comparison.p),
            "yes" if comparison.different else "no",
            str(comparison.prompts),
            f"{comparison.reach:.{comparison.digits}f}",
        ]
        for comparison in comparisons
    ]


def trials_table(results: TrialResults) -> list[list[str]]:
    """Every trial in the study's order."""
    return [
        [
            row.label,
            row.state,
            f"{row.training.step}/{row.trial.steps}",
            number(row.training.validation_loss, 4),
            *_figures(row),
            number(row.seconds, 1),
            number(row.start_seconds),
        ]
        for row in results
    ]


def trial_facts(row: TrialRow) -> list[tuple[str, str]]:
    """Everything about a trial that is not empty: names and values."""
    settings = [("method", row.title), ("ranking", row.ranking), ("start", row.init), ("β", _beta(row))]
    settings += [
        ("learning rate", f"{row.learning_rate:g}"),
        ("seed", str(row.seed)),
        ("other settings", _joined(settings_of(row))),
    ]
    state = [("state", row.state), ("reason", row.reason or "–"), ("steps", f"{row.training.step}/{row.trial.steps}")]
    figures = list(zip(FIGURES, _figures(row), strict=True))
    more = [("seconds", number(row.seconds, 1)), ("length-controlled (%)", controlled(row.figures))]
    return [(name, value) for name, value in [*settings, *state, *figures, *more] if value != "–"]


def _held_out(row: TrialRow) -> str:
    """The preference loss of held-out pairs; of a setting with its interval."""
    if row.held_out is None:
        return number(row.preference_loss, 3)
    return with_interval(row.held_out.value, row.held_out.low, row.held_out.high, 3)


def _figures(row: TrialRow) -> list[str]:
    return [
        won(row.figures),
        distance(row.divergence),
        _held_out(row),
        number(row.training.validation_accuracy, 3),
        number(row.training.validation_margin, 3),
        number(None if row.figures is None else row.figures.responses.mean_length, 1),
        number(row.training.tokens_per_second, 0),
    ]
