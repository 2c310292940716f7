"""Which finished trials are looked at."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from raydaa.pipeline.trials import trials_to_evaluate
from raydaa.store.records import Point, Trial
from raydaa.store.study_folder import StudyFolder


@pytest.fixture
def trials(tmp_path: Path) -> list[Trial]:
    """Two β of dpo with two learning rates each, and a stopped one."""
    made = []
    for number, (beta, loss, state) in enumerate(
        [
            (0.1, 0.5, "finished"),
            (0.1, 0.3, "finished"),
            (0.2, 0.4, "finished"),
            (0.2, 0.9, "finished"),
            (0.3, 0.1, "stopped"),
        ]
    ):
        point = Point("sft", "dpo", {"beta": beta}, 1e-4 * (number + 1), 0)
        made.append(Trial(str(number), "dpo", "dpo", "pairwise", state, 10, str(number), point))
        folder = tmp_path / "trials" / str(number)
        folder.mkdir(parents=True)
        metrics = {"step": 10, "validation/preference_loss": loss}
        (folder / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
    return made


@pytest.mark.parametrize(("rule", "keys"), [("finished", "0123"), ("best_lr_per_beta", "12"), ("best_per_method", "1")])
def test_rules(tmp_path: Path, trials: list[Trial], rule: str, keys: str) -> None:
    assert [trial.key for trial in trials_to_evaluate(StudyFolder(tmp_path), trials, rule)] == list(keys)


def test_seeds_are_looked_at_together(tmp_path: Path, trials: list[Trial]) -> None:
    """A lucky seed does not choose its setting, and a setting's seeds are all looked at; so are finalists."""
    first, second, third, fourth = (replace(trial, key=f"seed-{trial.key}") for trial in trials[:4])
    seeds = [replace(trial, point=replace(trial.point, seed=1)) for trial in (first, second, third, fourth)]
    finalist = replace(trials[0], key="finalist", point=replace(trials[0].point, seed=2), finalist=True)
    for trial, loss in zip([*seeds, finalist], [0.1, 0.8, 0.4, 0.9, 9.0], strict=True):
        folder = tmp_path / "trials" / trial.key
        folder.mkdir(parents=True)
        metrics = {"step": 10, "validation/preference_loss": loss}
        (folder / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
    every = [*trials, *seeds, finalist]
    # β 0.1: 0.3 on average at the first rate, 0.55 at the second, whose first seed is the best of all others.
    chosen = [trial.key for trial in trials_to_evaluate(StudyFolder(tmp_path), every, "best_lr_per_beta")]
    assert chosen == ["0", "2", "seed-0", "seed-2", "finalist"]
