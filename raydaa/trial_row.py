"""A trial as results show it: settings, state and figures, read from the study folder."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from raydaa.evaluation.figures import BenchmarkFigures, ModelFigures, ResponseFigures
from raydaa.evaluation.kl import Divergence
from raydaa.evaluation.seeds import MeanInterval
from raydaa.evaluation.win_rate import WinRate
from raydaa.store.plain import to_plain
from raydaa.store.records import ACCURACY, LOSS, MARGIN, PREFERENCE_LOSS, SPENT, Trial, TrialState
from raydaa.store.study_folder import StudyFolder

RESPONSE_COLUMNS = tuple(known.name for known in fields(ResponseFigures))
# Columns that differ between two runs of the same study; every other is reproducible.
TIME_COLUMNS = ("tokens_per_second", "seconds", "start_seconds", "mfu", "peak_memory")


@dataclass(frozen=True)
class TrainingFigures:
    """What a trial's steps say of it; None where something was not measured."""

    step: int
    validation_loss: float | None
    preference_loss: float | None  # held-out
    validation_accuracy: float | None
    validation_margin: float | None
    tokens_per_second: float | None  # the median step's, as those below
    mfu: float | None  # the share of a card's operations that training took at the least
    padding: float | None  # the share of tokens
    peak_memory: float | None  # bytes of a card
    attention: str | None
    seconds: float | None


@dataclass(frozen=True)
class TrialRow:
    """A trial's settings, state and figures; None where something was not measured.

    Of a setting that was trained with several ``seeds`` it is the trial to hand over, with the figures of all: rates
    and losses are means, intervals hold what seeds change.
    """

    trial: Trial
    reason: str | None
    training: TrainingFigures
    start_seconds: float | None
    figures: BenchmarkFigures | None  # on the first benchmark, by which trials are ranked
    divergence: Divergence | None  # from its start
    benchmarks: dict[str, BenchmarkFigures]
    checkpoint: str | None
    seeds: tuple[int, ...] = ()  # of a setting; empty for a trial
    held_out: MeanInterval | None = None  # preference loss of a setting, over pairs and seeds

    @property
    def key(self) -> str:
        """The trial's folder below ``trials``."""
        return self.trial.key

    @property
    def label(self) -> str:
        """A short name for people."""
        return self.trial.label

    @property
    def method(self) -> str:
        """What the method calls itself."""
        return self.trial.method

    @property
    def title(self) -> str:
        """The method, marked where it is normalised otherwise than its own form."""
        return self.trial.title

    @property
    def ranking(self) -> str:
        """Pairwise or pointwise."""
        return self.trial.ranking

    @property
    def init(self) -> str:
        """What the trial started from."""
        return self.trial.point.init

    @property
    def parameters(self) -> dict[str, Any]:
        """The loss's own."""
        return self.trial.point.parameters

    @property
    def learning_rate(self) -> float:
        """Its peak."""
        return self.trial.point.learning_rate

    @property
    def seed(self) -> int:
        """Of the order of the data."""
        return self.trial.point.seed

    @property
    def state(self) -> TrialState:
        """How it ended."""
        return self.trial.state

    @property
    def finished(self) -> bool:
        """Whether it was trained to its end."""
        return self.trial.state == TrialState.FINISHED

    @property
    def stopped_early(self) -> bool:
        """Whether others of its bracket were better; one that the budget ended was not."""
        return self.trial.state == TrialState.STOPPED and self.reason != SPENT

    @property
    def beta(self) -> float | None:
        """The method's β, where it has one."""
        value = self.parameters.get("beta")
        return None if value is None else float(value)

    @property
    def preference_loss(self) -> float | None:
        """Of held-out pairs, nats."""
        return self.training.preference_loss

    @property
    def seconds(self) -> float | None:
        """Of training."""
        return self.training.seconds

    @property
    def rate(self) -> WinRate | None:
        """On the first benchmark, with its interval."""
        return None if self.figures is None else self.figures.win_rate

    @property
    def win_rate(self) -> float | None:
        """Percent, on the first benchmark; its interval is that of ``rate``."""
        return None if self.rate is None else self.rate.value

    @property
    def kl(self) -> float | None:
        """Nats per response from its start; its interval is ``divergence``'s."""
        return None if self.divergence is None else self.divergence.per_response

    def columns(self) -> dict[str, Any]:
        """The row as a table has it: every setting and figure by its name; groups of settings as JSON."""
        trial = self.trial
        point = self.trial.point
        return {
            "key": trial.key,
            "label": trial.label,
            "init": point.init,
            "method": trial.method,
            "title": trial.title,
            "ranking": trial.ranking,
            "parameters": json.dumps(point.parameters, sort_keys=True),
            "learning_rate": point.learning_rate,
            "seed": point.seed,
            "sft_weight": point.sft_weight,
            "align_weight": point.align_weight,
            "fraction": point.fraction,
            "training": json.dumps(point.training, sort_keys=True),
            "state": trial.state,
            "reason": self.reason,
            "steps": trial.steps,
            **vars(self.training),
            "start_seconds": self.start_seconds,
            **_judged(self.figures),
            **_distance(self.divergence),
            "benchmarks": json.dumps(
                {name: to_plain(figures) for name, figures in self.benchmarks.items()}, sort_keys=True
            ),
            "verdicts": None if self.figures is None else self.figures.verdicts,
            "checkpoint": self.checkpoint,
            "beta": self.beta,
        }


def _judged(figures: BenchmarkFigures | None) -> dict[str, Any]:
    """Of the first benchmark; a column is here for every field of its figures, measured or not."""
    rate = None if figures is None else figures.win_rate
    controlled = None if figures is None else figures.length_controlled
    responses = {} if figures is None else vars(figures.responses)
    return {
        "win_rate": rate and rate.value,
        "win_rate_low": rate and rate.low,
        "win_rate_high": rate and rate.high,
        "wins": rate and rate.wins,
        "ties": rate and rate.ties,
        "losses": rate and rate.losses,
        "lc_win_rate": controlled and controlled.value,
        "lc_error": controlled and controlled.standard_error,
        **{name: responses.get(name) for name in RESPONSE_COLUMNS},
    }


def _distance(divergence: Divergence | None) -> dict[str, Any]:
    return {
        "kl": divergence and divergence.per_response,
        "kl_low": divergence and divergence.low,
        "kl_high": divergence and divergence.high,
        "kl_per_token": divergence and divergence.per_token,
    }


def trial_row(folder: StudyFolder, trial: Trial, measured: ModelFigures, benchmark: str) -> TrialRow:
    """From a trial's entry in the study's list, its folder and its figures; ``benchmark`` ranks trials."""
    trial_folder = folder.trial(trial.key)
    record = trial_folder.record.read()
    slot = trial_folder.slot.read()
    kept = trial.state == TrialState.FINISHED and (record is None or record.removed is None)
    return TrialRow(
        trial=trial,
        reason=(record and record.reason) or None,
        training=_training_figures(trial_folder.read_metrics()),
        start_seconds=None if slot is None else slot.seconds,
        figures=measured.benchmarks.get(benchmark),
        divergence=measured.kl,
        benchmarks=measured.benchmarks,
        checkpoint=str(trial_folder.model) if kept else None,
    )


def _training_figures(metrics: list[dict[str, Any]]) -> TrainingFigures:
    validated: dict[str, Any] = next((m for m in reversed(metrics) if LOSS in m), {})
    last: dict[str, Any] = metrics[-1] if metrics else {}
    return TrainingFigures(
        step=last.get("step", 0),
        validation_loss=validated.get(LOSS),
        preference_loss=validated.get(PREFERENCE_LOSS),
        validation_accuracy=validated.get(ACCURACY),
        validation_margin=validated.get(MARGIN),
        tokens_per_second=median(m.get("tokens_per_second") for m in metrics),
        mfu=median(m.get("mfu") for m in metrics),
        padding=median(m.get("padding") for m in metrics),
        peak_memory=max((m["peak_memory"] for m in metrics if "peak_memory" in m), default=None),
        attention=last.get("attention"),
        seconds=last.get("seconds"),
    )


def median(values: Iterable[float | None]) -> float | None:
    """The middle one of those that there are, the higher of two; None where there is none."""
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None


def over_seeds(handed_over: TrialRow, rows: Sequence[TrialRow], figures: ModelFigures | None, first: str) -> TrialRow:
    """A setting by the trials of its seeds, with what was measured of them together; ``first`` is the benchmark by
    which settings are ranked."""
    training = _mean_training([row.training for row in rows])
    setting = replace(handed_over, seeds=tuple(row.seed for row in rows), training=training)
    if figures is None:
        return setting
    benchmarks = figures.benchmarks
    return replace(setting, figures=benchmarks.get(first), benchmarks=benchmarks, divergence=figures.kl)


def _mean_training(figures: Sequence[TrainingFigures]) -> TrainingFigures:
    """Of a setting's seeds: losses, accuracies and margins are means, the rest is that of the first."""
    names = ("validation_loss", "preference_loss", "validation_accuracy", "validation_margin")
    means: dict[str, float] = {}
    for name in names:
        known = [value for one in figures if (value := getattr(one, name)) is not None]
        if known:
            means[name] = float(np.mean(known))
    return replace(figures[0], **means)  # type: ignore[arg-type]  # these four are numbers
