"""Everything that is said of models: by their responses to benchmarks, by verdicts on them, and by their distance.

A new figure of a model is a field here, with what fills it beside it. numpy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from raydaa.evaluation.arena_hard import ArenaScore
from raydaa.evaluation.diversity import distinct_n
from raydaa.evaluation.kl import Divergence
from raydaa.evaluation.length_control import LengthControlled
from raydaa.evaluation.win_rate import WinRate


@dataclass(frozen=True, kw_only=True)
class ResponseFigures:
    """Of one model's responses to one benchmark's prompts."""

    mean_length: float  # tokens
    mean_characters: float
    distinct_1: float | None  # of the words and pairs of words in its responses, how many are different ones
    distinct_2: float | None
    cut_share: float  # responses that ended at the limit


def response_figures(texts: Sequence[str], lengths: Sequence[int], cut: Sequence[bool]) -> ResponseFigures:
    """From responses, their numbers of tokens, and whether each was cut at the limit."""
    return ResponseFigures(
        mean_length=float(np.mean(lengths)),
        mean_characters=float(np.mean(list(map(len, texts)))),
        distinct_1=distinct_n(texts, 1),
        distinct_2=distinct_n(texts, 2),
        cut_share=float(np.mean(cut)),
    )


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
    """Of all models of a study: ``trials`` by their keys, ``models`` judged beside them by their names."""

    benchmarks: tuple[BenchmarkInfo, ...] = ()  # trials are ranked by the first
    trials: dict[str, ModelFigures] = field(default_factory=dict)
    models: dict[str, ModelFigures] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # on how the figures were made
