"""What came out of a study: one row per trial, read from the study folder."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from raydaa.evaluation.comparison import Comparison, compare
from raydaa.evaluation.figures import BenchmarkInfo, Evaluation, ModelFigures
from raydaa.evaluation.pareto import pareto_front
from raydaa.store.records import HarnessRecord, HarnessScores
from raydaa.store.study_folder import StudyFolder
from raydaa.store.tables import VERDICTS, column
from raydaa.trial_row import TrialRow, trial_row


@dataclass(frozen=True)
class Ranking:
    """What trials are ranked by."""

    name: str
    unit: str
    higher_is_better: bool
    value_of: Callable[[TrialRow], float]  # NaN where a trial has none


BY_WIN_RATE = Ranking("win rate", "%", True, lambda row: math.nan if row.win_rate is None else row.win_rate)
BY_LOSS = Ranking(
    "held-out preference loss",
    "nats",
    False,
    lambda row: math.nan if row.preference_loss is None else row.preference_loss,
)


@dataclass(frozen=True)
class TrialResults:
    """All trials of a study folder."""

    folder: Path
    rows: list[TrialRow]
    evaluation: Evaluation = field(default_factory=Evaluation)
    harness: dict[str, HarnessScores] = field(default_factory=dict)  # by model

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read a study folder.

        Args:
            folder: As `Study.folder`.

        Returns:
            Its results, in the study's order.

        Raises:
            ValueError: Where it holds no finished sweep, or was written in another format.
        """
        folder = Path(folder).absolute()
        at = StudyFolder(folder)
        at.check_format()
        listed = at.trial_list.read()
        if listed is None or not listed.trials:
            raise ValueError(f"{folder}: holds no finished sweep; run the study first")
        evaluation = at.evaluation.read() or Evaluation()
        harness = at.harness.read() or HarnessRecord()
        first = evaluation.benchmarks[0].name if evaluation.benchmarks else ""
        rows = []
        for trial in listed.trials:
            rows.append(trial_row(at, trial, evaluation.trials.get(trial.key, ModelFigures()), first))
        return cls(folder, rows, evaluation, harness.models)

    @property
    def models(self) -> dict[str, ModelFigures]:
        """Figures of the models judged beside the trials, by their names."""
        return self.evaluation.models

    @property
    def benchmarks(self) -> tuple[BenchmarkInfo, ...]:
        """What models were judged on; trials are ranked by the first."""
        return self.evaluation.benchmarks

    @property
    def notes(self) -> tuple[str, ...]:
        """On how the figures were made."""
        return self.evaluation.notes

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
        return pa.Table.from_pylist([{**row.columns(), "judged_by": self.judged_by} for row in self.rows])

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

    @property
    def ranking(self) -> Ranking:
        """What trials are ranked by: the win rate, or the held-out preference loss where nobody judged."""
        return BY_WIN_RATE if self.judged else BY_LOSS

    def quality(self, row: TrialRow) -> float:
        """How good a trial is, the higher the better, by `ranking`.

        Args:
            row: One of these results'.

        Returns:
            The win rate in percent, or minus the held-out loss in nats; −∞ for a trial that did not finish, or has no
            value.
        """
        value = self.ranking.value_of(row)
        if not math.isfinite(value) or not row.finished:
            return float("-inf")
        return value if self.ranking.higher_is_better else -value

    @property
    def methods(self) -> list[str]:
        """Methods in the study's order."""
        return list(dict.fromkeys(row.method for row in self.rows))

    def best(self, method: str) -> TrialRow:
        """The best finished trial of a method, the nearer one to its start where two are equal.

        Args:
            method: As the study calls it.

        Returns:
            The trial; its ``checkpoint`` is the folder that was handed over, ``best/<method>``.

        Raises:
            ValueError: Where none of the method finished.
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
        rows = [self._best(method) for method in self.methods if method in have]
        return sorted(rows, key=self._rank, reverse=True)

    def outcomes(self) -> tuple[list[str], np.ndarray]:
        """Judged methods, best first, and the outcomes of their best trials, ``(methods, prompts)``: 1 win, ½ tie, 0
        loss, NaN where one was not judged."""
        tables = {}
        for row in self.best_of_each():
            folder = None if row.figures is None or row.figures.verdicts is None else self.folder / row.figures.verdicts
            if folder is not None and VERDICTS.is_in(folder):
                tables[row.method] = VERDICTS.read(folder)
        by_prompt = [dict(zip(column(t, "prompt_id"), column(t, "outcome"), strict=True)) for t in tables.values()]
        prompts = list(dict.fromkeys(name for outcomes in by_prompt for name in outcomes))
        return list(tables), np.array([[by_id.get(name, np.nan) for name in prompts] for by_id in by_prompt], float)

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
