"""The toy study from settings to page: settings chosen on each half of the runs, and reported on the other."""

import itertools
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from raydaa.errors import InputError
from raydaa.evaluation import comparison, win_rate
from raydaa.evaluation.student import t_quantile
from raydaa.progress import Progress
from raydaa.reporting.chart import Axis, Chart, Mark, Series, Value
from raydaa.reporting.page import data_url, markdown_table, render
from raydaa.reporting.with_matplotlib import draw
from raydaa.store.artifacts import renew_files
from raydaa.store.study_folder import PAGE
from raydaa.toy.settings import ToySettings
from raydaa.toy.training import RunResult, all_runs, make_grid

HEADER = ("prompt bias", "hidden size", "ranking", "learning rate", "β", "accuracy (%)", "standard error", "ties (%)")
DIFFERENCE_HEADER = ("prompt bias", "hidden size", "pairwise − pointwise (points)")
COLOUR_OF = {"pairwise": 0, "pointwise": 3}
ACCURACIES = win_rate.ADDED  # that an interval adds
DIFFERENCES = comparison.ADDED
CAPTION = "Accuracy of the best setting of each ranking, with intervals over the runs it was not chosen on."


@dataclass(frozen=True)
class Best:
    """The best settings of a ranking and size on one kind of data, one by each half of the runs, and what each reached
    on the other half."""

    prompt_bias: float
    hidden_size: int
    ranking: str
    learning_rates: tuple[float, float]
    betas: tuple[float, float]
    accuracies: np.ndarray  # (runs,)
    ties: float

    @property
    def accuracy(self) -> float:
        """Mean over all runs."""
        return float(self.accuracies.mean())

    @property
    def standard_error(self) -> float:
        """Of that mean."""
        return float(self.accuracies.std(ddof=1) / np.sqrt(len(self.accuracies)))


def run_toy(settings: ToySettings, progress: Progress) -> tuple[Path, str]:
    """Train the whole grid and write page, table, figure and every run; the page's path and what came out.

    InputError where the output folder can't be written: then nothing was trained.
    """
    folder = Path(settings.output).absolute()
    try:
        renew_files(folder, lambda _: None)
    except OSError as error:
        raise InputError(f"{folder}: can't be written: {error.strerror}; choose another output") from None
    total = len(settings.prompt_bias) * settings.runs
    networks = total * len(settings.rankings) * len(settings.hidden_sizes) * len(make_grid(settings))
    progress.start("toy", f"{networks} networks, {settings.steps} steps each")
    results: list[RunResult] = []
    for number, run_results in enumerate(all_runs(settings), start=1):
        results += run_results
        progress.update(number, total, f"{number}/{total} runs")
    progress.end(f"{networks} networks")
    best = choose(settings, results)
    answer = summary(settings, best)
    renew_files(folder, partial(_write, settings, results, best, answer))
    return folder / PAGE, answer


def choose(settings: ToySettings, results: list[RunResult]) -> list[Best]:
    """For each kind of data, size and ranking: the best mean accuracy on either half of the runs.

    Both halves choose, and are reported with what the other chose: which one chose alone would move the difference of
    two rankings by about 3 points.
    """
    grid = list(itertools.product(settings.learning_rates, settings.betas))
    cut = settings.runs // 2
    best = []
    for prompt_bias in settings.prompt_bias:
        for size in settings.hidden_sizes:
            for ranking in settings.rankings:
                group = [
                    r for r in results if (r.prompt_bias, r.hidden_size, r.ranking) == (prompt_bias, size, ranking)
                ]
                accuracy = np.stack([result.accuracy for result in group])
                ties = np.stack([result.ties for result in group])
                by_first = int(accuracy[:cut].mean(axis=0).argmax())
                by_second = int(accuracy[cut:].mean(axis=0).argmax())
                rates, betas = zip(grid[by_first], grid[by_second], strict=True)
                reported = np.concatenate([accuracy[:cut, by_second], accuracy[cut:, by_first]])
                tied = np.concatenate([ties[:cut, by_second], ties[cut:, by_first]])
                best.append(Best(prompt_bias, size, ranking, rates, betas, reported, float(tied.mean())))
    return best


def _bracketed(values: np.ndarray, settings: ToySettings, added: tuple[float, ...] = ACCURACIES) -> str:
    """Mean and interval of fractions, in percent."""
    low, high = _interval(values, settings, added)
    return f"{100 * values.mean():.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def _interval(values: np.ndarray, settings: ToySettings, added: tuple[float, ...]) -> tuple[float, float]:
    """Student's; where most accuracies are 0 or 1, with a few values more, or it would be too narrow."""
    all_or_nothing = np.isin(values, (-1.0, 0.0, 1.0)).mean() > 0.5
    more = np.concatenate([values, added]) if all_or_nothing else values
    around = t_quantile(settings.interval, len(values) - 1) * float(more.std(ddof=1)) / len(more) ** 0.5
    middle = float(more.mean())
    return max(min(added), middle - around), min(max(added), middle + around)


def _both(values: tuple[float, float]) -> str:
    """One of each half of the runs, once where they agree."""
    return " / ".join(dict.fromkeys(f"{value:g}" for value in values))


def best_table(settings: ToySettings, best: list[Best]) -> list[list[str]]:
    """A row for each of `choose`'s."""
    return [
        [
            f"{b.prompt_bias:g}",
            str(b.hidden_size),
            b.ranking,
            _both(b.learning_rates),
            _both(b.betas),
            _bracketed(b.accuracies, settings),
            f"{100 * b.standard_error:.2f}",
            f"{100 * b.ties:.2f}",
        ]
        for b in best
    ]


def differences(best: list[Best]) -> list[tuple[float, int, np.ndarray]]:
    """Pairwise minus pointwise accuracy, run by run, where both were trained: prompt bias, size, ``(runs,)``."""
    of = {(b.prompt_bias, b.hidden_size, b.ranking): b.accuracies for b in best}
    return [
        (bias, size, values - of[bias, size, "pointwise"])
        for (bias, size, ranking), values in of.items()
        if ranking == "pairwise" and (bias, size, "pointwise") in of
    ]


def summary(settings: ToySettings, best: list[Best]) -> str:
    """What came out, in a sentence per kind of data."""
    lines = []
    for bias in settings.prompt_bias:
        parts = [
            f"{_bracketed(values, settings, DIFFERENCES)} points at hidden size {size}"
            for at, size, values in differences(best)
            if at == bias
        ]
        parts = parts or [f"{b.ranking} {100 * b.accuracy:.2f} %" for b in best if b.prompt_bias == bias]
        what = "pairwise minus pointwise is " if len(settings.rankings) > 1 else ""
        lines.append(f"with prompt bias {bias:g} {what}{', '.join(parts)}")
    return "; ".join(lines)


def chart_of(settings: ToySettings, best: list[Best]) -> Chart:
    """Accuracy by hidden size, one panel for each kind of data."""
    series = []
    for bias in settings.prompt_bias:
        for shift, ranking in enumerate(settings.rankings):
            aside = 0.12 * (shift - 0.5 * (len(settings.rankings) - 1))
            rows = [b for b in best if (b.prompt_bias, b.ranking) == (bias, ranking)]
            marks = []
            for index, row in enumerate(rows):
                low, high = (100 * end for end in _interval(row.accuracies, settings, ACCURACIES))
                marks.append(Mark(Value(index + aside), Value(100 * row.accuracy, low, high), ranking=ranking))
            panel = f"prompt bias {bias:g}"
            series.append(Series(ranking, ranking, COLOUR_OF[ranking], tuple(marks), panel=panel))
    sizes = tuple(map(str, settings.hidden_sizes))
    y = Axis("held-out accuracy (%)")
    return Chart("accuracy", CAPTION, Axis("hidden size", categories=sizes), y, tuple(series))


def every_run(settings: ToySettings, results: list[RunResult]) -> pa.Table:
    """One row for each network that was trained."""
    grid = list(itertools.product(settings.learning_rates, settings.betas))  # the rows of `make_grid`
    size = len(grid)
    columns: dict[str, Any] = {}
    for name in ("prompt_bias", "ranking", "hidden_size", "run"):
        columns[name] = np.repeat([getattr(result, name) for result in results], size)
    for index, name in enumerate(("learning_rate", "beta")):
        columns[name] = [values[index] for values in grid] * len(results)
    for name in ("accuracy", "ties"):
        columns[name] = np.concatenate([getattr(result, name) for result in results])
    return pa.table(columns)


def _write(settings: ToySettings, results: list[RunResult], best: list[Best], answer: str, folder: Path) -> None:
    rows = best_table(settings, best)
    gaps = [[f"{bias:g}", str(size), _bracketed(v, settings, DIFFERENCES)] for bias, size, v in differences(best)]
    figures = draw([chart_of(settings, best)], folder)
    pq.write_table(every_run(settings, results), folder / "runs.parquet")
    text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
    (folder / "toy.yaml").write_text(text, encoding="utf-8")
    tables = (markdown_table(HEADER, rows), markdown_table(DIFFERENCE_HEADER, gaps))
    (folder / "table.md").write_text("\n\n".join(["# The toy study", answer, *tables]) + "\n", encoding="utf-8")
    values = {
        "name": "The toy study",
        "summary": answer[0].upper() + answer[1:] + ".",
        "figures": [(CAPTION, data_url(figures["accuracy"]))],
        "header": HEADER,
        "rows": rows,
        "difference_header": DIFFERENCE_HEADER,
        "differences": gaps,
        "runs": settings.runs,
        "level": settings.interval,
        "settings": text,
    }
    (folder / PAGE).write_text(render("toy.html", values), encoding="utf-8")
