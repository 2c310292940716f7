"""The trials of a study, ranked: which setting is the best of its method, which are worth keeping."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

from raydaa.evaluation.figures import BenchmarkInfo, Evaluation, ModelFigures
from raydaa.evaluation.limits import Limits
from raydaa.evaluation.seeds import SeedSpread
from raydaa.ranking import BY_LOSS, BY_WIN_RATE, Ranking
from raydaa.store.records import HarnessScores
from raydaa.store.study_folder import StudyFolder
from raydaa.trial_row import TrialRow, over_seeds


@dataclass(frozen=True)
class RankedTrials:
    """All trials of a study folder."""

    folder: Path
    rows: list[TrialRow]
    evaluation: Evaluation = field(default_factory=Evaluation)
    harness: dict[str, HarnessScores] = field(default_factory=dict)  # by model

    @property
    def at(self) -> StudyFolder:
        """Where in the study's folder each lies."""
        return StudyFolder(self.folder)

    @property
    def models(self) -> dict[str, ModelFigures]:
        """Figures of the models judged beside the trials, by their names."""
        return self.evaluation.models

    @property
    def benchmarks(self) -> tuple[BenchmarkInfo, ...]:
        """What models were judged on; trials are ranked by the first."""
        return self.evaluation.benchmarks

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
        """Methods in the study's order, by their titles: another normalisation is another method."""
        return list(dict.fromkeys(row.title for row in self.rows))

    @cached_property
    def settings(self) -> list[TrialRow]:
        """What is ranked: every setting that finished, over its seeds; where one of a method's settings finished with
        more seeds than another, that other is left out."""
        finished: dict[str, list[TrialRow]] = {}
        for row in self.rows:
            if row.finished and not row.trial.finalist:
                finished.setdefault(row.trial.point.setting, []).append(row)
        most: dict[str, int] = {}
        for rows in finished.values():
            most[rows[0].title] = max(most.get(rows[0].title, 0), len(rows))
        first = self.evaluation.first_benchmark
        settings: list[TrialRow] = []
        for setting, rows in finished.items():
            if len(rows) == most[rows[0].title]:
                handed_over = max(rows, key=self.rank)
                merged = over_seeds(handed_over, rows, self.evaluation.settings.get(setting), first)
                settings.append(replace(merged, held_out=self.evaluation.held_out.get(setting)))
        return settings

    @cached_property
    def finals(self) -> dict[str, TrialRow]:
        """The methods' best settings over the fresh seeds of their finalists, of those that finished, by
        `Point.setting`."""
        finished: dict[str, list[TrialRow]] = {}
        for row in self.rows:
            if row.finished and row.trial.finalist:
                finished.setdefault(row.trial.point.setting, []).append(row)
        first = self.evaluation.first_benchmark
        finals: dict[str, TrialRow] = {}
        for setting, rows in finished.items():
            merged = over_seeds(max(rows, key=self.rank), rows, self.evaluation.finals.get(setting), first)
            finals[setting] = replace(merged, held_out=self.evaluation.final_held_out.get(setting))
        return finals

    def trials_of(self, setting: TrialRow) -> list[TrialRow]:
        """The finished trials of a setting.

        Args:
            setting: One of `settings` or `finals`, or one of its trials.

        Returns:
            One for each seed: of a finalist the fresh ones, else those of the sweep.
        """
        same = setting.trial
        return [
            row
            for row in self.rows
            if row.finished and (row.trial.point.setting, row.trial.finalist) == (same.point.setting, same.finalist)
        ]

    def best(self, method: str) -> TrialRow:
        """The best setting of a method, the nearer one to its start where two are equal.

        Args:
            method: Its title, or what the study calls it.

        Returns:
            The setting, over its seeds; its ``checkpoint`` is the folder that was handed over, ``best/<method>``.

        Raises:
            ValueError: Where none of the method finished.
        """
        self._best(method)  # says what there is, where there is none
        row = next(row for row in self.best_of_each() if method in (row.title, row.method))
        handed = self.at.best(row.title)
        return replace(row, checkpoint=str(handed)) if (handed / "config.json").exists() else row

    def _best(self, method: str) -> TrialRow:
        of_method = [row for row in self.settings if method in (row.title, row.method)]
        if not of_method:
            choices = ", ".join(self.methods)
            raise ValueError(f"no trial of {method!r} finished; the study has {choices}")
        titled = [row for row in of_method if row.title == method]
        return max(titled or of_method, key=lambda row: (*self.standing(row), *self.rank(row)))

    def standing(self, row: TrialRow) -> tuple[bool, int]:
        """What comes before quality.

        Args:
            row: One of `settings`.

        Returns:
            Whether it probably keeps the limits of KL and length, and on how many prompts it was judged: one that was
            left out of a race was clearly behind those that were not, whatever its mean over fewer prompts.
        """
        return self._keeps_distance(row), 0 if row.rate is None else row.rate.judged

    def rank(self, row: TrialRow) -> tuple[float, float]:
        """What decides between two settings.

        Args:
            row: One of these results'.

        Returns:
            Its quality, and, of equals the nearer one to its start, minus its KL.
        """
        return self.quality(row), -(row.kl if row.kl is not None else float("inf"))

    def best_of_each(self) -> list[TrialRow]:
        """The best setting of every method that finished one.

        Returns:
            Those that keep the study's limits first, then best first: by what is left without the optimism of choosing
            it. Where none of a method keeps the limits of KL and length, its best is among all. Where all of them were
            trained again with fresh seeds, they are over those.
        """
        chosen = self.chosen()
        if all(row.trial.point.setting in self.finals for row in chosen):
            chosen = [self.finals[row.trial.point.setting] for row in chosen]
        return sorted(chosen, key=self.rank_of_best, reverse=True)

    def chosen(self) -> list[TrialRow]:
        """The best setting of every method, as the sweep has it.

        Returns:
            In the study's order.
        """
        finished = {row.title for row in self.settings}
        return [self._best(method) for method in self.methods if method in finished]

    def rank_of_best(self, row: TrialRow) -> tuple[bool, bool, int, float, float]:
        """What decides between the methods' bests.

        Args:
            row: One of them.

        Returns:
            Whether it keeps the limits, its `standing`, and what is left of its quality without the optimism of its
            choice; of equals the nearer one to its start comes first.
        """
        quality, distance = self.rank(row)
        return self.keeps_limits(row), *self.standing(row), quality - self.optimism_of(row), distance

    def keeps_limits(self, row: TrialRow) -> bool:
        """Whether a setting probably keeps what the study asks of one that it recommends (`evaluation.choose`).

        Args:
            row: One of `settings`.

        Returns:
            True where nothing is asked.
        """
        scores: dict[str, tuple[float, float | None]] = {}
        for task, metrics in self.harness.get(row.title, {}).items():
            first = next(iter(metrics.values()))
            scores[task] = (first.value, first.standard_error)
        return self._keeps_distance(row) and self.evaluation.limits.keep_tasks(scores)

    def _keeps_distance(self, row: TrialRow) -> bool:
        first = self.evaluation.first_benchmark
        start = self.models.get(row.init, ModelFigures()).benchmarks.get(first)
        ratio = None
        if row.figures is not None and start is not None and start.responses.mean_length > 0:
            ratio = row.figures.responses.mean_length / start.responses.mean_length
        return self.evaluation.limits.keep_distance(row.divergence, ratio)

    def without_limits(self) -> Self:
        """The same results, with nothing asked of what is recommended.

        Returns:
            Which have another best setting, where limits cost something.
        """
        return replace(self, evaluation=replace(self.evaluation, limits=Limits()))

    @property
    def spread(self) -> SeedSpread | None:
        """How much seeds move what `best_of_each` is compared by; None where each has one."""
        best = self.best_of_each()
        finals = bool(best) and best[0].trial.finalist
        return self.evaluation.final_spread if finals else self.evaluation.spread

    @property
    def optimism_of_best(self) -> float:
        """By how much the recommended setting is too good for having been chosen among all: points of win rate, or nats
        of held-out loss."""
        best = self.best_of_each()
        optimism = self.evaluation.optimism.best
        if best and best[0].trial.finalist:
            optimism = self.evaluation.final_optimism
        return optimism * (100 if self.judged else 1)

    def optimism_of(self, row: TrialRow) -> float:
        """By how much the value of a method's best is too high for having been chosen.

        Args:
            row: The best setting of a method.

        Returns:
            Points of win rate; nats of held-out loss where nobody judged; 0 over fresh seeds, by which nothing was
            chosen.
        """
        if row.trial.finalist:
            return 0.0
        return self.evaluation.optimism.groups.get(row.title, 0.0) * (100 if self.judged else 1)
