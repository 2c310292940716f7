"""Successive halving: decisions depend on values alone."""

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from raydaa.tuning.bracket import Bracket


def bracket(size: int, rungs: int = 2, keep: float = 0.5) -> Bracket:
    made = Bracket(rungs, keep)
    for i in range(size):
        made.add(f"t{i}")
    return made


def test_waits_for_all_then_keeps_the_lower_half() -> None:
    made = bracket(4)
    for i, value in enumerate([3.0, 1.0, 2.0]):
        made.report(f"t{i}", 0, value)
    assert [made.decision(f"t{i}") for i in range(4)] == ["wait", "wait", "wait", "go"]
    made.report("t3", 0, 4.0)
    assert [made.decision(f"t{i}") for i in range(4)] == ["stop", "go", "go", "stop"]
    made.report("t1", 1, 1.0)
    assert made.decision("t1") == "wait"
    made.report("t2", 1, 0.5)
    assert [made.decision(f"t{i}") for i in (1, 2)] == ["stop", "go"]


def test_nobody_waits_for_a_trial_that_is_over() -> None:
    made = bracket(2, rungs=1)
    made.report("t0", 0, 1.0)
    assert made.decision("t0") == "wait"
    made.leave("t1")
    assert made.decision("t0") == "go"


def test_nan_is_worst_ties_go_to_the_first_and_one_always_stays() -> None:
    made = bracket(3, rungs=1, keep=0.01)
    for key, value in (("t0", math.nan), ("t1", 1.0), ("t2", 1.0)):
        made.report(key, 0, value)
    assert [made.decision(f"t{i}") for i in range(3)] == ["stop", "go", "stop"]


def test_seeds_go_on_or_stop_together_by_their_mean() -> None:
    made = Bracket(1, 0.5)
    for key, setting in (("a0", "a"), ("a1", "a"), ("b0", "b"), ("b1", "b")):
        made.add(key, setting)
    for key, value in (("a0", 1.0), ("a1", 4.0), ("b0", 2.0)):  # the best single one is a's
        made.report(key, 0, value)
    assert made.decision("a0") == "wait"
    made.report("b1", 0, 2.5)
    assert [made.decision(key) for key in ("a0", "a1", "b0", "b1")] == ["stop", "stop", "go", "go"]


def test_a_seed_that_fails_does_not_take_its_setting_along() -> None:
    made = Bracket(1, 0.5)
    for key, setting in (("a0", "a"), ("a1", "a"), ("b0", "b"), ("b1", "b")):
        made.add(key, setting)
    made.leave("a1")
    for key, value in (("a0", 1.0), ("b0", 2.0), ("b1", 2.0)):
        made.report(key, 0, value)
    assert [made.decision(key) for key in ("a0", "b0", "b1")] == ["go", "stop", "stop"]


def test_without_rungs_everybody_goes() -> None:
    assert bracket(2, rungs=0).decision("t0") == "go"


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=9),
    st.integers(1, 3),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.integers(0, 99),
)
def test_order_of_reports_does_not_matter(values: list[float], rungs: int, keep: float, seed: int) -> None:
    def survivors(order_seed: int) -> set[str]:
        rng = random.Random(order_seed)
        made = bracket(len(values), rungs, keep)
        reached = {f"t{i}": 0 for i in range(len(values))}
        while True:
            ready = [key for key in reached if reached[key] < rungs and made.decision(key) == "go"]
            if not ready:
                return {key for key in reached if made.decision(key) == "go"}
            key = rng.choice(ready)
            # A later rung's value differs from the first's, so ranks may change on the way.
            made.report(key, reached[key], (values[int(key[1:])] * (reached[key] + 7)) % 1)
            reached[key] += 1

    assert survivors(seed) == survivors(seed + 1)
    assert survivors(seed)
