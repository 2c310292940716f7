"""ArenaHard's score: verdicts of five degrees, every game against one baseline. numpy only."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raydaa.evaluation.comparison import bootstrap_counts
from raydaa.evaluation.win_rate import interval

# Outcome for assistant A and the game's weight: a clear verdict counts as three.
DEGREES = {"A>>B": (1.0, 3.0), "A>B": (1.0, 1.0), "A=B": (0.5, 1.0), "B>A": (0.0, 1.0), "B>>A": (0.0, 3.0)}
_FINAL = re.compile(r"\[\[\s*([AB])\s*(>>|>|=|<|<<)\s*([AB])\s*\]\]")


@dataclass(frozen=True)
class ArenaScore:
    """Percent with its 95 % interval: questions are resampled, the games of one stay together, so that it is wider
    than the official one, which resamples games."""

    value: float
    low: float
    high: float
    games: int
    questions: int
    unparsable: int


def read_verdict(text: str) -> str | None:
    """The last verdict in a judge's answer, one of `DEGREES`; None where there is none."""
    found = [match for match in _FINAL.findall(text) if {match[0], match[2]} == {"A", "B"}]
    if not found:
        return None
    left, sign, right = found[-1]
    if sign.startswith("<"):
        left, sign, right = right, sign.replace("<", ">"), left
    return "A=B" if sign == "=" else f"{left}{sign}{right}"


def arena_score(
    questions: Sequence[str],
    verdicts: Sequence[str | None],
    model_is_a: Sequence[bool],
    draws: int = 10_000,
    seed: int = 0,
) -> ArenaScore:
    """Score of a model by its games against the baseline.

    Each game has its question, its verdict (one of `DEGREES`, None where the judge's answer could not be read: left out
    and counted) and whether the model was assistant A. With one baseline for all games the Bradley–Terry fit is
    saturated: the score is the weighted share of games won. ValueError where no game can be counted.
    """
    read = [
        (question, DEGREES[verdict], is_a)
        for question, verdict, is_a in zip(questions, verdicts, model_is_a, strict=True)
        if verdict is not None
    ]
    if not read:
        raise ValueError("no game has a verdict")
    places = {question: place for place, question in enumerate(dict.fromkeys(question for question, _, _ in read))}
    won, played = np.zeros(len(places)), np.zeros(len(places))
    for question, (outcome, weight), is_a in read:
        won[places[question]] += weight * (outcome if is_a else 1 - outcome)
        played[places[question]] += weight
    counts = bootstrap_counts(len(places), draws, seed)
    low, high = interval(100 * (counts @ won) / (counts @ played))
    value = 100 * float(won.sum() / played.sum())
    return ArenaScore(value, low, high, len(read), len(places), len(verdicts) - len(read))
