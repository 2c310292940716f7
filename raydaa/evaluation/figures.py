"""Everything that is said of models: by their responses to benchmarks, by verdicts on them, and by their distance.

A new figure of a model is a field here, with what fills it beside it. numpy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from raydaa.evaluation.arena_hard import ArenaScore
from raydaa.evaluation.diversity import Diversity
from raydaa.evaluation.kl import Divergence
from raydaa.evaluation.length_control import LengthControlled
from raydaa.evaluation.limits import Limits
from raydaa.evaluation.seeds import MeanInterval, SeedSpread
from raydaa.evaluation.selection import Optimism
from raydaa.evaluation.win_rate import WinRate


@dataclass(frozen=True, kw_only=True)
class ResponseFigures:
    """Of one model's responses to one benchmark's prompts."""

    mean_length: float  # tokens
    mean_characters: float
    cut_share: float  # responses that ended at the limit
    distinct_1: float | None = None  # the share of different ones among equally many words of each model,
    distinct_1_low: float | None = None
    distinct_1_high: float | None = None
    distinct_2: float | None = None  # and pairs of words
    distinct_2_low: float | None = None
    distinct_2_high: float | None = None


def response_figures(lengths: Sequence[int], characters: Sequence[int], cut: Sequence[bool]) -> ResponseFigures:
    """From responses' numbers of tokens and characters, and whether each was cut at the limit."""
    return ResponseFigures(
        mean_length=float(np.mean(lengths)),
        mean_characters=float(np.mean(characters)),
        cut_share=float(np.mean(cut)),
    )


def with_diversity(figures: ResponseFigures, of_words: Diversity | None, of_pairs: Diversity | None) -> ResponseFigures:
    """With how varied the responses are; None where a model wrote none of these."""
    values: dict[str, float] = {}
    for name, diversity in {"distinct_1": of_words, "distinct_2": of_pairs}.items():
        if diversity is not None:
            values |= {name: diversity.value, f"{name}_low": diversity.low, f"{name}_high": diversity.high}
    return replace(figures, **values)


@dataclass(frozen=True, kw_only=True)
class BenchmarkFigures:
    """Of one model on one benchmark; None where nobody judged, or nothing could be estimated. ``answers`` and
    ``verdicts`` are folders below the study's."""

    answers: str
    responses: ResponseFigures
    verdicts: str | None = None
    win_rate: WinRate | None = None
    arena: ArenaScore | None = None
    length_controlled: LengthControlled | None = None


@dataclass(frozen=True)
class ModelFigures:
    """Of one model, by benchmark; ``kl`` is from what it started from, None for a start itself."""

    kl: Divergence | None = None
    benchmarks: dict[str, BenchmarkFigures] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchmarkInfo:
    """A benchmark that models were judged on; ``label`` says by whom, wherever its scores stand."""

    name: str
    label: str
    baseline: str
    questions: str = ""  # a file below the study's folder: prompts, and the baseline's responses
    sent: int = 0  # tokens that a language model was sent for the verdicts, and that it wrote
    written: int = 0
    cost: float | None = None  # of these, where the study names a price


@dataclass(frozen=True)
class Evaluation:
    """Of all models of a study: ``trials`` by their keys, ``models`` judged beside them by their names.

    ``settings`` are over the seeds that each was trained with, by `Point.setting`; ``spread`` is of their outcomes on
    the first benchmark. ``possible_front`` are those that may be on the Pareto front of their start, ``as_good`` those
    that are not told apart from the recommended one.
    """

    benchmarks: tuple[BenchmarkInfo, ...] = ()  # settings are ranked by the first
    trials: dict[str, ModelFigures] = field(default_factory=dict)
    models: dict[str, ModelFigures] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # on how the figures were made
    settings: dict[str, ModelFigures] = field(default_factory=dict)
    spread: SeedSpread | None = None
    optimism: Optimism = field(default_factory=Optimism)  # in shares of 1; groups are methods by their titles
    held_out: dict[str, MeanInterval] = field(default_factory=dict)  # preference loss in nats, by `Point.setting`
    finals: dict[str, ModelFigures] = field(default_factory=dict)  # of finalists over their fresh seeds, as settings
    final_held_out: dict[str, MeanInterval] = field(default_factory=dict)
    final_optimism: float = 0.0  # of choosing among the methods' finalists
    final_spread: SeedSpread | None = None
    limits: Limits = field(default_factory=Limits)  # of what is recommended
    possible_front: tuple[str, ...] = ()
    as_good: tuple[str, ...] = ()

    @property
    def first_benchmark(self) -> str:
        """The name of the one by which settings are ranked; empty where nothing was judged on any."""
        return self.benchmarks[0].name if self.benchmarks else ""
