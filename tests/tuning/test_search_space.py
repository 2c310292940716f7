"""Points of a search space, and the sweep that they make."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from raydaa.artifacts import key_of, write_json
from raydaa.search_settings import EarlyStopping, SearchSettings
from raydaa.training.spec import RunSpec
from raydaa.tuning.search_space import Group, Point, Result, export, groups
from raydaa.tuning.sweep import Sweep


def search(**changes: Any) -> SearchSettings:
    tree = {"learning_rate": [1e-4, 1e-3], "methods": [{"name": "dpo", "beta": [0.1, 0.2]}], **changes}
    return SearchSettings.model_validate(tree)


def points(found: list[Group]) -> list[Point]:
    return [point for group in found for _, point in group.next_cohort()]


def test_a_grid_is_every_combination_once() -> None:
    methods = [{"name": "dpo", "beta": [0.1, 0.2], "init": ["sft", "base"]}, {"name": "simpo", "beta": 1.0}]
    found = points(groups(search(methods=methods, seeds=[0, 1])))
    assert len(found) == 2 * 2 * 2 * 2 + 2 * 2
    assert len({repr(point) for point in found}) == len(found)
    assert {point.init for point in found if point.method == "dpo"} == {"sft", "base"}


def test_another_normalisation_is_named() -> None:
    methods = [{"name": "ipo", "beta": 0.1, "length_normalized": [False, True]}, {"name": "simpo", "beta": 1.0}]
    found = points(groups(search(methods=methods, learning_rate=1e-4)))
    assert [point.title for point in found] == ["ipo", "ipo (per token)", "simpo"]


def test_overrides_and_weights_are_searched() -> None:
    entry = {"name": "asft", "beta": 1.0, "sft_weight": 1.0, "align_weight": [0.1, 1.0], "training": {"epochs": [1, 2]}}
    found = points(groups(search(methods=[entry], learning_rate=1e-5)))
    assert [(p.align_weight, p.training["epochs"]) for p in found] == [(0.1, 1), (0.1, 2), (1.0, 1), (1.0, 2)]
    assert all(point.sft_weight == 1.0 for point in found)


def test_random_points_lie_in_their_range_and_are_reproducible() -> None:
    methods = [{"name": "dpo", "beta": {"low": 0.01, "high": 1.0, "log": True}, "num_trials": 9}]
    found = points(groups(search(methods=methods, sampler="random")))
    assert len(found) == 9
    assert all(0.01 <= point.parameters["beta"] <= 1 for point in found)
    assert found == points(groups(search(methods=methods, sampler="random")))


def test_tpe_asks_in_cohorts_and_repeats_itself() -> None:
    methods = [{"name": "dpo", "beta": {"low": 0.01, "high": 1.0, "log": True, "num_trials": 10}}]

    def play() -> list[Point]:
        group = groups(search(methods=methods))[0]
        found = []
        while cohort := group.next_cohort():
            assert len(cohort) <= 4
            for number, point in cohort:
                group.tell(number, Result(1 - abs(point.parameters["beta"] - 0.3)))
            found += [point for _, point in cohort]
        return found

    assert len(play()) == 10
    assert play() == play()


def test_studies_are_exported_into_one_storage(tmp_path: Path) -> None:
    found = groups(search(methods=[{"name": "dpo", "beta": 0.1}, {"name": "ipo", "beta": 0.1}]))
    for group in found:
        for number, _ in group.next_cohort():
            group.tell(number, Result(0.5 if number else None))
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    export(found, url)
    assert optuna.get_all_study_names(url) == ["sft/dpo", "sft/ipo"]
    states = [trial.state.name for trial in optuna.load_study(study_name="sft/ipo", storage=url).trials]
    assert states == ["FAIL", "COMPLETE"]


def spec(point: Point) -> tuple[str, RunSpec]:
    made = RunSpec(
        start="",
        train="",
        learning_rate=point.learning_rate,
        batch_size=1,
        epochs=1,
        warmup_ratio=0,
        max_grad_norm=1,
        adam_betas=(0.9, 0.9),
        weight_decay=0,
        precision="fp32",
        tokens_per_microbatch=1,
        seed=point.seed,
        engine="torch",
        zero_stage=0,
        checkpoint_every=1,
        validations=1,
        method=point.method,
        parameters=point.parameters,
        rungs=(0.5,),
    )
    return key_of(rate=point.learning_rate, beta=point.parameters["beta"]), made


def sweep(folder: Path, within: str = "beta", **changes: Any) -> Sweep:
    early = EarlyStopping.model_validate({"within": within, "rungs": [0.5], "keep": 0.5})
    return Sweep(groups(search(**changes)), spec, folder, early, table_size=10)


def log(loss: float, accuracy: float) -> dict[str, float]:
    return {"step": 5, "validation/loss": loss, "validation/rewards/accuracies": accuracy}


@pytest.mark.parametrize(("within", "brackets"), [("beta", 2), ("method", 1)])
def test_brackets_hold_what_can_be_compared(tmp_path: Path, within: str, brackets: int) -> None:
    made = sweep(tmp_path, within)
    assert len(made.brackets) == brackets
    for i, trial in enumerate(made.trials.values()):
        made.decide(trial, log(loss=i, accuracy=i / 10))
    decisions = [trial.bracket.decision(trial.key) for trial in made.trials.values()]
    # Lower loss wins inside each β; higher accuracy inside the method.
    assert decisions == (["go", "stop", "go", "stop"] if within == "beta" else ["stop", "stop", "go", "go"])


def test_a_sweep_reads_what_its_folders_say(tmp_path: Path) -> None:
    first = sweep(tmp_path)
    keys = list(first.trials)
    for key, loss in zip(keys[:2], (1.0, 2.0), strict=True):
        (tmp_path / key).mkdir()
        (tmp_path / key / "metrics.jsonl").write_text(
            f'{{"step": 5, "validation/loss": {loss}, "validation/rewards/accuracies": 0.5}}\n'
        )
    write_json(tmp_path / keys[2] / "record.json", {"state": "failed", "reason": "NaN", "retry": False})
    write_json(tmp_path / keys[3] / "record.json", {"state": "failed", "reason": "lost node", "retry": True})
    again = sweep(tmp_path)
    states = [again.trials[key].state for key in keys]
    assert states == ["waiting", "waiting", "failed", "waiting"]
    following = again.next_trial()
    assert following is not None
    assert following.key == keys[0]
    following.started = True
    # The second of the bracket lost at the rung already: it is closed without being started.
    last = again.next_trial()
    assert last is not None
    assert last.key == keys[3]
    assert again.trials[keys[1]].state == "stopped"


def test_a_sampler_goes_on_when_its_cohort_is_over(tmp_path: Path) -> None:
    methods = [{"name": "dpo", "beta": {"low": 0.01, "high": 1.0, "num_trials": 6}}]
    made = sweep(tmp_path, methods=methods, learning_rate=1e-4)
    assert len(made.trials) == 4
    for trial in list(made.trials.values()):
        made.close(trial, "failed", "test", retry=True)
    assert len(made.trials) == 6
    assert not made.over
