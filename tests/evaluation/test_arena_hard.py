"""ArenaHard's score and how its verdicts are read."""

import csv
from pathlib import Path

import pytest

from raydaa.evaluation.arena_hard import arena_score, read_verdict


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_scores_are_the_saturated_fits(real_data: Path) -> None:
    folder = real_data / "arena_bt_fixture"
    verdicts = rows_of(folder / "verdicts.csv")
    for expected in rows_of(folder / "expected.csv"):
        games = [row for row in verdicts if row["model_b"] == expected["model"]]
        if not games:  # the baseline itself
            continue
        score = arena_score([g["question_id"] for g in games], [g["verdict"] for g in games], [False] * len(games))
        assert score.value == pytest.approx(float(expected["closed_form"]), abs=1e-9)
        assert round(score.value, 2) == float(expected["score"])
        assert score.low == pytest.approx(float(expected["cluster_lo"]), abs=0.3)
        assert score.high == pytest.approx(float(expected["cluster_hi"]), abs=0.3)


def test_clear_verdicts_weigh_three_and_sides_are_undone() -> None:
    score = arena_score(["q", "q", "r", "r"], ["A>>B", "B>A", "A=B", None], [True, True, False, True])
    assert score.value == pytest.approx(100 * (3 + 0 + 0.5) / (3 + 1 + 1))
    assert (score.games, score.questions, score.unparsable) == (3, 2, 1)


def test_games_of_a_question_stay_together() -> None:
    """The same verdict twice tells no more than once."""
    questions = [str(i) for i in range(40)]
    verdicts = ["A>B" if i % 2 else "B>A" for i in range(40)]
    once = arena_score(questions, verdicts, [True] * 40)
    twice = arena_score(questions * 2, verdicts * 2, [True] * 80)
    assert (once.low, once.high) == (twice.low, twice.high)


def test_nothing_to_count_is_an_error() -> None:
    with pytest.raises(ValueError, match="no game has a verdict"):
        arena_score(["q"], [None], [True])


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("… so my final verdict is: [[A>>B]]", "A>>B"),
        ("first [[A>B]], but in the end [[B>A]]", "B>A"),
        ("[[ A = B ]]", "A=B"),
        ("[[A<B]]", "B>A"),
        ("[[B<<A]]", "A>>B"),
        ("[[B=A]]", "A=B"),
        ("[[A>A]]", None),
        ("A>B", None),
        ("[[C]]", None),
        ("", None),
    ],
)
def test_verdicts_are_read_from_the_end(text: str, verdict: str | None) -> None:
    assert read_verdict(text) == verdict
