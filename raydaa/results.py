"""What came out of a study: one row per trial, read from the study folder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from raydaa.evaluation.comparison import Comparison, compare
from raydaa.evaluation.figures import Evaluation, ModelFigures
from raydaa.evaluation.pareto import pareto_front
from raydaa.outcomes import read_held_out, read_outcomes, stack
from raydaa.ranked_trials import RankedTrials
from raydaa.store.records import HarnessRecord, HarnessScores, Trial
from raydaa.store.study_folder import StudyFolder
from raydaa.trial_row import TrialRow, trial_row


@dataclass(frozen=True)
class TrialResults(RankedTrials):
    """All trials of a study folder."""

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
        harness = at.harness.read() or HarnessRecord()
        return cls.of(folder, listed.trials, at.evaluation.read() or Evaluation(), harness.models)

    @classmethod
    def of(
        cls, folder: Path, trials: Sequence[Trial], evaluation: Evaluation, harness: dict[str, HarnessScores]
    ) -> Self:
        """The trials of a study folder with figures that need not be in it yet.

        Args:
            folder: As `Study.folder`.
            trials: As the study lists them.
            evaluation: Their figures.
            harness: Scores of the LM Evaluation Harness, by model.

        Returns:
            The results, in the order of ``trials``.
        """
        rows: list[TrialRow] = []
        for trial in trials:
            figures = evaluation.trials.get(trial.key, ModelFigures())
            rows.append(trial_row(StudyFolder(folder), trial, figures, evaluation.first_benchmark))
        return cls(folder, rows, evaluation, harness)

    @property
    def notes(self) -> tuple[str, ...]:
        """On how the figures were made."""
        return self.evaluation.notes

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

    def outcomes(self) -> tuple[list[TrialRow], np.ndarray]:
        """What was said of the best settings of the methods, prompt by prompt.

        Returns:
            The judged ones, best first, and their outcomes, ``(methods, seeds, prompts)``: 1 for a win, ½ for a tie,
            0 for a loss, NaN where one was not judged.
        """
        best = [row for row in self.best_of_each() if row.rate is not None]
        return best, self.outcomes_of(best)

    def outcomes_of(self, settings: Sequence[TrialRow], benchmark: str | None = None) -> np.ndarray:
        """What was said of settings, prompt by prompt.

        Args:
            settings: Of these results.
            benchmark: Its name; the first where it is None.

        Returns:
            Outcomes as those of `outcomes`, ``(settings, seeds, prompts)``; where nobody judged, minus the losses of
            held-out pairs.
        """
        if not self.judged and benchmark is None:
            return stack(
                [[read_held_out(self.at.trial(row.key)) for row in self.trials_of(setting)] for setting in settings]
            )
        name = benchmark or self.evaluation.first_benchmark
        return stack(
            [
                [read_outcomes(self.folder, trial.benchmarks.get(name)) for trial in self.trials_of(setting)]
                for setting in settings
            ]
        )

    def comparisons(self) -> list[Comparison]:
        """The best settings of all methods, each against each on the prompts that both were judged on.

        Returns:
            In the order of `best_of_each`, by what is left without the optimism of choosing them.
        """
        if self.judged:
            best, outcomes = self.outcomes()
        else:
            best = self.best_of_each()
            outcomes = self.outcomes_of(best)
        if not outcomes.size:
            return []
        optimism = [self.optimism_of(row) / (100 if self.judged else 1) for row in best]
        titles = [row.title for row in best]
        return compare(titles, outcomes, self.spread, optimism, bounded=self.judged)

    def pareto_fronts(self) -> dict[str, list[TrialRow]]:
        """Settings that no other of the same start beats in quality and KL at once.

        Returns:
            By start, nearest to it first.
        """
        by_start: dict[str, list[TrialRow]] = {}
        for row in self.settings:
            if row.kl is not None:
                by_start.setdefault(row.init, []).append(row)
        fronts: dict[str, list[TrialRow]] = {}
        for start, rows in by_start.items():
            front = pareto_front([row.kl or 0.0 for row in rows], [self.quality(row) for row in rows])
            fronts[start] = [rows[number] for number in front]
        return fronts

    def pareto_front(self) -> list[TrialRow]:
        """Settings that no other of their start beats in quality and KL at once.

        Returns:
            Start by start, nearest to it first.
        """
        return [row for front in self.pareto_fronts().values() for row in front]

    def may_be_on_front(self, row: TrialRow) -> bool:
        """Whether a setting is on the Pareto front of its start, for all that these prompts can tell.

        Args:
            row: One of `settings`.

        Returns:
            False where another beats it in nearly all draws of the prompts; True where nobody has looked.
        """
        possible = self.evaluation.possible_front
        return not possible or row.trial.point.setting in possible

    def worth_keeping(self) -> list[TrialRow]:
        """Settings whose model somebody may choose.

        Returns:
            The best of each method, the Pareto fronts, and what is not told apart from either.
        """
        undecided = {*self.evaluation.possible_front, *self.evaluation.as_good}
        others = [row for row in self.settings if row.trial.point.setting in undecided]
        return list({row.key: row for row in [*self.best_of_each(), *self.pareto_front(), *others]}.values())
