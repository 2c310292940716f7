"""What came out of a study: one row per trial, read from the study folder."""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raydaa.evaluation.comparison import Comparison, compare
from raydaa.evaluation.pareto import pareto_front
from raydaa.store.artifacts import MANIFEST, intact, make_folder, read_json, write_json, write_text
from raydaa.store.study_folder import StudyFolder
from raydaa.store.tables import read
from raydaa.trial_row import TIME_COLUMNS, TrialRow, trial_row

GROUPS = ("parameters", "training", "benchmarks")  # one JSON column each in the table


@dataclass(frozen=True)
class Judged:
    """A benchmark that models were judged on; ``label`` says by whom, wherever its scores stand."""

    name: str
    label: str
    baseline: str
    questions: str = ""  # a file below the study's folder: prompts, and the baseline's responses
    sent: int = 0  # tokens that a language model was sent for the verdicts, and that it wrote
    written: int = 0
    cost: float | None = None  # of these, where the study names a price


@dataclass(frozen=True)
class TrialResults:
    """All trials of a study folder."""

    folder: Path
    rows: list[TrialRow]
    models: dict[str, dict[str, dict[str, Any]]]  # of the models judged beside the trials: figures by benchmark
    benchmarks: tuple[Judged, ...] = ()  # trials are ranked by the first
    notes: tuple[str, ...] = ()  # on how the figures were made
    harness: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  # scores by model, task and metric

    @staticmethod
    def load(folder: Path | str) -> "TrialResults":
        """Read a study folder; ValueError where it holds no trials yet."""
        folder = Path(folder).absolute()
        at = StudyFolder(folder)
        trials = read_json(at.trial_list)
        if not trials:
            raise ValueError(f"{folder}: holds no finished sweep; run the study first")
        evaluation = read_json(at.evaluation) or {}
        measured = evaluation.get("trials", {})
        judged = tuple(Judged(**each) for each in evaluation.get("benchmarks", ()))
        first = judged[0].name if judged else ""
        rows = [trial_row(at, trial, measured.get(trial["key"], {}), first) for trial in trials]
        models = {name: row.get("benchmarks", {}) for name, row in evaluation.get("models", {}).items()}
        notes = tuple(evaluation.get("notes", ()))
        return TrialResults(folder, rows, models, judged, notes, read_json(at.harness) or {})

    @property
    def at(self) -> StudyFolder:
        """Where in the study's folder each lies."""
        return StudyFolder(self.folder)

    def __iter__(self) -> Iterator[TrialRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def table(self) -> pa.Table:
        """The rows as an Arrow table; groups of settings as one JSON column each and β as its own."""

        def columns(row: TrialRow) -> dict[str, Any]:
            groups = {name: json.dumps(getattr(row, name), sort_keys=True) for name in GROUPS}
            return {**vars(row), **groups, "beta": row.beta, "judged_by": self.judged_by}

        return pa.Table.from_pylist([columns(row) for row in self.rows])

    def to_pandas(self) -> Any:
        """The rows as a pandas DataFrame (pandas is not a dependency: install it)."""
        return self.table.to_pandas()

    @property
    def judged_by(self) -> str | None:
        """What the win rates are of: benchmark, judge and prompt; None where nobody judged."""
        return self.benchmarks[0].label if self.judged else None

    @property
    def judged(self) -> bool:
        """Whether there are win rates."""
        return any(row.win_rate is not None for row in self.rows)

    def quality(self, row: TrialRow) -> float:
        """What trials are ranked by: the win rate, else minus the held-out preference loss; −∞ for one that did not
        finish."""
        value = row.win_rate if self.judged else row.preference_loss
        if value is None or not math.isfinite(value) or not row.finished:
            return float("-inf")
        return value if self.judged else -value

    @property
    def methods(self) -> list[str]:
        """Methods in the study's order."""
        return list(dict.fromkeys(row.method for row in self.rows))

    def best(self, method: str) -> TrialRow:
        """The best finished trial of ``method``, the nearer one to its start where two are equal.

        Its ``checkpoint`` is the folder that was handed over, ``best/<method>``. ValueError where none finished.
        """
        row = self._best(method)
        handed = self.at.best(method)
        return replace(row, checkpoint=str(handed)) if (handed / "config.json").exists() else row

    def _best(self, method: str) -> TrialRow:
        finished = [row for row in self.rows if row.method == method and row.finished]
        if not finished:
            choices = ", ".join(self.methods)
            raise ValueError(f"no trial of {method!r} finished; the study has {choices}")
        return max(finished, key=self._rank)

    def _rank(self, row: TrialRow) -> tuple[float, float]:
        """Quality, and of equals the nearer one to its start."""
        return self.quality(row), -(row.kl if row.kl is not None else float("inf"))

    def best_of_each(self) -> list[TrialRow]:
        """The best trial of every method that finished one, best first."""
        have = {row.method for row in self.rows if row.finished}
        found = [self._best(method) for method in self.methods if method in have]
        return sorted(found, key=self._rank, reverse=True)

    def outcomes(self) -> tuple[list[str], np.ndarray]:
        """Judged methods, best first, and the outcomes of their best trials, ``(methods, prompts)``: 1 win, ½ tie, 0
        loss, NaN where one was not judged."""
        places = {row.method: self.folder / str(row.verdicts) / "verdicts.parquet" for row in self.best_of_each()}
        judged = {method: place for method, place in places.items() if place.exists()}
        tables = [read(place) for place in judged.values()]
        found = [dict(zip(t["prompt_id"].to_pylist(), t["outcome"].to_pylist(), strict=True)) for t in tables]
        prompts = list(dict.fromkeys(name for outcomes in found for name in outcomes))
        return list(judged), np.array([[each.get(name, np.nan) for name in prompts] for each in found], float)

    def comparisons(self) -> list[Comparison]:
        """The best trials of all methods, best first, each against each on the prompts that both were judged on."""
        methods, outcomes = self.outcomes()
        return compare(methods, outcomes) if methods else []

    def pareto_front(self) -> list[TrialRow]:
        """Finished trials that no other beats in quality and KL at once, nearest to the start first."""
        known = [row for row in self.rows if row.finished and row.kl is not None]
        front = pareto_front([row.kl for row in known if row.kl is not None], [self.quality(row) for row in known])
        return [known[i] for i in front]

    def worth_keeping(self) -> list[TrialRow]:
        """Trials whose model somebody may choose: the best of each method, and the Pareto front."""
        return list({row.key: row for row in [*self.best_of_each(), *self.pareto_front()]}.values())

    def summary(self) -> str:
        """What the study found, in one sentence."""
        found = self.best_of_each()
        if not found:
            return "no trial finished"
        best = found[0]
        settings = ", ".join(f"{k} {v:g}" for k, v in best.parameters.items() if k != "length_normalized")
        how = f"{best.title} ({settings}, learning rate {best.learning_rate:g})"
        tied = best.win_rate_low == best.win_rate_high == 50  # on every prompt: then the rate is no finding
        lead = f"nothing was told apart: every prompt is a tie on {self.judged_by}; " if tied else ""
        if best.win_rate is None or tied:
            figures = f"held-out preference loss {best.preference_loss or 0:.3f}"
        else:
            interval = f"[{best.win_rate_low:.1f}, {best.win_rate_high:.1f}]"
            figures = f"win rate {best.win_rate:.1f} % {interval} on {self.judged_by}"
        distance = f" at KL {best.kl:.2f} nats" if best.kl is not None else ""
        return f"{lead}best is {how}, {figures}{distance}"

    def hand_over(self) -> None:
        """Copy the best model of each method to ``best/<method>/``, with a README; whole or not at all."""
        for row in self.best_of_each():
            target = self.at.best(row.method)
            known = read_json(target / "raydaa.json")
            if known == _figures(row) and intact(target):
                continue
            shutil.rmtree(target, ignore_errors=True)

            def fill(temporary: Path, row: TrialRow = row) -> None:
                source = Path(str(row.checkpoint))
                shutil.copytree(source, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
                write_json(temporary / "raydaa.json", _figures(row))
                write_text(temporary / "README.md", self._card(row))

            make_folder(target, fill)

    def _card(self, row: TrialRow) -> str:
        study = self.at.settings
        lines = [f"- {name}: {value}" for name, value in _figures(row).items() if value is not None]
        settings = study.read_text(encoding="utf-8") if study.exists() else ""
        return (
            f"# {self.folder.name}: best {row.method}\n\nA causal language model aligned with {row.method} by raydaa, "
            f"starting from {row.init}.\n\n" + "\n".join(lines) + f"\n\n## Study\n\n```yaml\n{settings}```\n"
        )

    def report(self, folder: Path | str) -> Path:
        """Write page, figures and tables into ``folder``; returns the page's path."""
        from raydaa.reporting.report import write_report

        return write_report(self, Path(folder))


def _figures(row: TrialRow) -> dict[str, Any]:
    """What a model's card says: everything but what differs from run to run."""
    left_out = (*TIME_COLUMNS, "checkpoint", "verdicts", "benchmarks")
    return {name: value for name, value in vars(row).items() if name not in left_out}
