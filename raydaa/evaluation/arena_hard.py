"""ArenaHard's score: verdicts of five degrees, every game against one baseline. numpy only."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raydaa.evaluation.win_rate import bootstrap_counts, interval

# Outcome for assistant A and the game's weight: a clear verdict counts as three.
DEGREES = {"A>>B": (1.0, 3.0), "A>B": (1.0, 1.0), "A=B": (0.5, 1.0), "B>A": (0.0, 1.0), "B>>A": (0.0, 3.0)}
_FINAL = re.compile(r"\[\[\s*([AB])\s*(>>|>|=|<|<<)\s*([AB])\s*\]\]")
_SIGNS = str.maketrans({"≫": ">>", "≪": "<<", "＞": ">", "＜": "<", "＝": "=", "≈": "="})


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
    """The last verdict in a judge's answer, one of `DEGREES`, also in Markdown or escaped; None where there is none."""
    plain = re.sub(r"[*_`\\]", "", html.unescape(text)).translate(_SIGNS)
    labels = [match for match in _FINAL.findall(plain.upper()) if {match[0], match[2]} == {"A", "B"}]
    if not labels:
        return None
    left, sign, right = labels[-1]
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
    known = [DEGREES.get(verdict or "", (float("nan"), 0.0)) for verdict in verdicts]
    outcomes = [value if is_a else 1 - value for (value, _), is_a in zip(known, model_is_a, strict=True)]
    return score_of_games(questions, outcomes, [weight for _, weight in known], draws, seed)


def score_of_games(
    questions: Sequence[str],
    outcomes: Sequence[float],
    weights: Sequence[float],
    draws: int = 10_000,
    seed: int = 0,
) -> ArenaScore:
    """`arena_score` of games of which the model's outcome (NaN where it could not be read) and the weight are known."""
    outcome = np.asarray(outcomes, float)
    weight = np.asarray(weights, float)
    read = ~np.isnan(outcome)
    if not read.any():
        raise ValueError("no game has a verdict")
    names, places = np.unique(np.asarray(questions)[read], return_inverse=True)
    won = np.bincount(places, weight[read] * outcome[read])
    played = np.bincount(places, weight[read])
    counts = bootstrap_counts(len(names), draws, seed)
    low, high = interval(100 * (counts @ won) / (counts @ played))
    value = 100 * float(won.sum() / played.sum())
    return ArenaScore(value, low, high, int(read.sum()), len(names), int((~read).sum()))
