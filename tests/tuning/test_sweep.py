"""What a sweep learns from the trials that report."""

from pathlib import Path

from tests.tuning.sweeps import log, sweep


def test_trials_begin_with_what_others_had_room_for(tmp_path: Path) -> None:
    """Out of memory is found out once, not by every trial; one that asked for less keeps it."""
    made = sweep(tmp_path)
    for trial, tokens in zip(made.trials.values(), (512, 8, 512, 512), strict=True):
        trial.recipe = trial.recipe.with_tokens(tokens)
    first, small, *others = made.trials.values()
    made.decide(small, {**log(0.5), "tokens_per_microbatch": 8})
    assert made.room is None
    made.decide(first, {**log(0.6), "tokens_per_microbatch": 256})
    assert made.room == 256
    assert [made.recipe_of(trial).tokens for trial in (small, *others)] == [8, 256, 256]
