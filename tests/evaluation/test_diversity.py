"""Distinct-n by hand."""

import pytest

from raydaa.evaluation.diversity import distinct_n


def test_distinct_n_counts_over_all_responses() -> None:
    responses = ["a b a", "a b", ""]
    assert distinct_n(responses, 1) == pytest.approx(2 / 5)  # a, b among five words
    assert distinct_n(responses, 2) == pytest.approx(2 / 3)  # ab, ba, ab
    assert distinct_n(["a", "b"], 2) is None  # no pair across responses
