"""What a model has to keep to be recommended."""

import pytest

from raydaa.evaluation.kl import Divergence
from raydaa.evaluation.limits import Limits


def at(kl: float, around: float) -> Divergence:
    low, high = kl - around, kl + around
    return Divergence(kl, low, high, 0.1, 0.1, 0.1, kl, low, high, largest=0.0)


@pytest.mark.parametrize(
    ("kl", "around", "kept"),
    [(0.9, 0.1, True), (1.1, 0.1, False), (0.99, 0.1, False), (0.95, 0.1, True)],  # 0.84 of a standard error more
)
def test_kl_is_kept_where_that_is_probable(kl: float, around: float, kept: bool) -> None:
    assert Limits(max_kl=1.0).keep_distance(at(kl, around), None) is kept


def test_what_was_not_measured_is_not_kept_but_a_task_that_nobody_asked_is() -> None:
    assert not Limits(max_kl=1.0).keep_distance(None, None)
    assert not Limits(max_length_ratio=1.2).keep_distance(at(0.1, 0.1), None)
    assert Limits(max_length_ratio=1.2).keep_distance(None, 1.2)
    assert not Limits(max_length_ratio=1.2).keep_distance(None, 1.21)
    limits = Limits(min_tasks={"arc": 0.5})
    assert limits.keep_tasks({})
    assert limits.keep_tasks({"arc": (0.52, 0.02)})
    assert not limits.keep_tasks({"arc": (0.51, 0.02)})
    assert limits.keep_tasks({"arc": (0.5, None)})


def test_limits_say_what_they_are() -> None:
    assert not Limits()
    limits = Limits(max_kl=10, max_length_ratio=1.2, min_tasks={"arc": 0.5})
    assert limits
    expected = "KL of at most 10 nats, responses at most 1.2 times as long as its start's, arc of at least 0.5"
    assert str(limits) == expected
