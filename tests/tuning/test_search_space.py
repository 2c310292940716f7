"""Points of a search space, and the sweep that they make."""

import json
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from raydaa.settings.search import Budget, EarlyStopping
from raydaa.store.artifacts import make_folder, write_json
from raydaa.store.records import Point, TrialRecord, TrialState
from raydaa.training.spec import Recipe
from raydaa.tuning.ledger import FolderLedger
from raydaa.tuning.search_space import FinalistGroup, Group, Result, export, groups, label_of, title_of
from raydaa.tuning.simulate import simulate
from raydaa.tuning.sweep import Sweep
from raydaa.tuning.sweep_budget import SweepBudget
from raydaa.tuning.swept_trial import SweptTrial
from tests.tuning.sweeps import log, search, spec, sweep


def points(found: list[Group]) -> list[Point]:
    return [point for group in found for _, point in group.next_cohort()]


def test_a_grid_is_every_combination_once() -> None:
    methods = [{"name": "dpo", "beta": [0.1, 0.2], "init": ["sft", "base"]}, {"name": "simpo", "beta": 1.0}]
    found = points(groups(search(methods=methods, seeds=[0, 1])))
    assert len(found) == 2 * 2 * 2 * 2 + 2 * 2
    assert len({repr(point) for point in found}) == len(found)
    assert {point.init for point in found if point.method == "dpo"} == {"sft", "base"}


def test_a_label_tells_apart_what_the_search_does() -> None:
    entry = {"name": "dpo", "beta": 0.1, "align_weight": [0.5, 1.0], "training": {"epochs": [1, 2]}}
    found = points(groups(search(methods=[entry], learning_rate=1e-5), fraction=(0.5, 1.0)))
    labels = [label_of(point, "") for point in found]
    assert len(set(labels)) == len(found) == 2 * 2 * 2
    assert "dpo beta=0.1 align_weight=0.5 fraction=0.5 epochs=1 lr=1e-05 seed=0 " in labels


def test_another_normalisation_is_named() -> None:
    methods = [{"name": "ipo", "beta": 0.1, "length_normalized": [False, True]}, {"name": "simpo", "beta": 1.0}]
    found = points(groups(search(methods=methods, learning_rate=1e-4)))
    assert [title_of(point) for point in found] == ["ipo", "ipo (per token)", "simpo"]


def test_overrides_and_weights_are_searched() -> None:
    entry = {"name": "asft", "beta": 1.0, "sft_weight": 1.0, "align_weight": [0.1, 1.0], "training": {"epochs": [1, 2]}}
    found = points(groups(search(methods=[entry], learning_rate=1e-5)))
    assert [(p.align_weight, p.training["epochs"]) for p in found] == [(0.1, 1), (0.1, 2), (1.0, 1), (1.0, 2)]
    assert all(point.sft_weight == 1.0 for point in found)


def test_shares_of_the_pairs_are_searched() -> None:
    methods = [{"name": "dpo", "beta": 0.1}, {"name": "ipo", "beta": 0.1, "data.preferences.fraction": [0.1, 0.2]}]
    found = points(groups(search(methods=methods, learning_rate=1e-4), fraction=(0.5, 1.0)))
    assert [(point.method, point.fraction) for point in found] == [("dpo", 0.5), ("dpo", 1), ("ipo", 0.1), ("ipo", 0.2)]


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


def test_trials_on_less_data_do_not_compete_with_those_on_more(tmp_path: Path) -> None:
    entry = {"name": "dpo", "beta": [0.1], "data.preferences.fraction": [0.1, 1.0]}
    assert [len(b.settings) for b in sweep(tmp_path, "method", methods=[entry]).brackets.values()] == [2, 2]


def test_more_trials_in_a_bracket_lose_more() -> None:
    kept = [EarlyStopping.model_validate({"within": name}).keep for name in ("beta", "method")]
    assert kept == [0.5, 0.35]
    assert EarlyStopping.model_validate({"within": "method", "keep": 0.8}).keep == 0.8


@pytest.mark.parametrize(("within", "brackets"), [("beta", 2), ("method", 1)])
def test_brackets_hold_what_can_be_compared(tmp_path: Path, within: str, brackets: int) -> None:
    made = sweep(tmp_path, within)
    assert len(made.brackets) == brackets
    for i, trial in enumerate(made.trials.values()):
        made.decide(trial, log(float(i)))
    decisions = [trial.bracket.decision(trial.key) for trial in made.trials.values()]
    assert decisions == (["go", "stop", "go", "stop"] if within == "beta" else ["go", "go", "stop", "stop"])


@pytest.mark.parametrize(("loss", "decision"), [(1.0, "go"), (3.0, "stop")])
def test_a_trial_tried_again_is_judged_where_it_was_before(tmp_path: Path, loss: float, decision: str) -> None:
    """Its worker died after the rung and the new one starts from an older checkpoint, with a validation on the way."""
    made = sweep(tmp_path, methods=[{"name": "dpo", "beta": [0.1]}])
    died, other = made.trials.values()
    assert made.decide(died, log(loss)) == "wait"
    assert made.decide(other, log(2.0)) == ("stop" if decision == "go" else "go")
    assert made.decide(died, {**log(loss), "step": 4}) == "go"
    assert made.decide(died, log(loss)) == decision


def test_a_trial_that_died_at_a_rung_unheard_is_judged_there(tmp_path: Path) -> None:
    made = sweep(tmp_path, methods=[{"name": "dpo", "beta": [0.1]}])
    died, other = made.trials.values()
    for trial in (died, other):
        made.start(trial)
    died.folder.path.mkdir()
    died.folder.metrics.write_text(json.dumps(log(2.0)) + "\n")
    made.hand_back(died)
    assert made.next_trial() is None
    assert made.decide(other, log(1.0)) == "go"
    assert made.next_trial() is None
    assert died.state == "stopped"


def test_a_trial_that_died_after_its_end_is_not_run_again(tmp_path: Path) -> None:
    made = sweep(tmp_path, methods=[{"name": "dpo", "beta": [0.1]}])
    died = next(iter(made.trials.values()))
    made.start(died)
    make_folder(died.folder.model, lambda folder: write_json(folder / "config.json", {}))
    died.folder.record.write(TrialRecord(TrialState.FINISHED, steps=10, seconds=1.0))
    made.hand_back(died)
    assert died.state == "finished"
    assert made.next_trial() is not died


def test_a_trial_whose_worker_dies_after_it_was_stopped_stays_so(tmp_path: Path) -> None:
    made = sweep(tmp_path, methods=[{"name": "dpo", "beta": [0.1]}])
    trial = next(iter(made.trials.values()))
    made.start(trial)
    made.close(trial, TrialState.STOPPED, "the others were better")
    made.hand_back(trial)
    assert trial.state == TrialState.STOPPED
    assert made.next_trial() is not trial


def played(made: Sweep, slots: int) -> int:
    """Run a sweep whose trials need no time, and whose first of a bracket is best; returns the steps used."""
    places = {key: place for place, key in enumerate(made.trials)}
    while not made.over:
        running = [trial for trial in made.trials.values() if trial.state == "running"]
        while len(running) < slots:
            trial = next(iter(made.winners()), None) or made.next_trial()
            if trial is None:
                break
            made.start(trial)
            running.append(trial)
        if not running:
            made.close_if_spent()
            continue
        trial = running[0]
        step = trial.reached + trial.steps_to_next_rung
        decision = made.decide(trial, {**log(places[trial.key]), "step": step, "seconds": 60.0 * step})
        if decision == "stop" or step == trial.steps:
            made.close(trial, TrialState.STOPPED if decision == "stop" else TrialState.FINISHED)
        else:
            made.pause(trial)
        for loser in made.losers():
            made.close(loser, TrialState.STOPPED)
    return sum(trial.reached for trial in made.trials.values())


def test_finalists_do_not_compete_and_no_budget_stops_them(tmp_path: Path) -> None:
    point = Point("sft", "dpo", {"beta": 0.1}, 1e-3, 7)
    group = FinalistGroup([point, replace(point, seed=8)])

    def own(point: Point) -> tuple[str, Recipe]:
        return str(point.seed), spec(point)[1]

    nothing = SweepBudget(Budget(trial_steps=1))
    finished = simulate(Sweep([group], own, FolderLedger(tmp_path), EarlyStopping(), 10, nothing)).trials
    assert [(trial.point.seed, trial.state, trial.finalist) for trial in finished] == [
        (7, TrialState.FINISHED, True),
        (8, TrialState.FINISHED, True),
    ]
    assert (group.undrawn, group.next_cohort()) == (0, [])


def record_of(trial: SweptTrial) -> TrialRecord:
    record = trial.folder.record.read()
    assert record is not None
    return record


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize(("budget", "finished"), [(9, 0), (15, 1), (29, 1), (30, 2), (100, 2)])
@pytest.mark.parametrize("hours", [False, True])
def test_a_sweep_ends_within_its_budget(tmp_path: Path, budget: int, finished: int, slots: int, hours: bool) -> None:
    """Two brackets of two trials of 10 steps, half of which go on from step 5: 30 steps in all, 15 a bracket."""
    limit = {"gpu_hours": 4 * budget / 60} if hours else {"trial_steps": budget}
    made = sweep(tmp_path, budget=SweepBudget(Budget.model_validate(limit), gpus=4.0))
    used = played(made, slots)
    states = [trial.state for trial in made.trials.values()]
    assert used <= max(budget, 5 * slots if hours else 0)  # the first ones start before a step's time is known
    assert states.count("finished") == finished if slots == 1 else states.count("finished") <= finished
    reasons = {record_of(t).reason for t in made.trials.values() if t.state == TrialState.STOPPED}
    assert ("the budget was spent" in reasons) == (budget < 30)


def test_a_larger_budget_goes_on(tmp_path: Path) -> None:
    first = sweep(tmp_path, budget=SweepBudget(Budget(trial_steps=15)))
    assert played(first, 1) == 15
    again = sweep(tmp_path, budget=SweepBudget(Budget(trial_steps=30)))
    assert [trial.state for trial in again.trials.values()] == ["waiting"] * 4


def test_a_bracket_that_cannot_afford_a_finisher_is_not_begun(tmp_path: Path) -> None:
    """Its first legs would be paid for nothing."""
    made = sweep(tmp_path, budget=SweepBudget(Budget(trial_steps=14)))
    assert made.next_trial() is None
    assert played(made, 1) == 0


def test_a_sweep_reads_what_its_folders_say(tmp_path: Path) -> None:
    first = sweep(tmp_path)
    keys = list(first.trials)
    for key, loss in zip(keys[:2], (1.0, 2.0), strict=True):
        (tmp_path / key).mkdir()
        (tmp_path / key / "metrics.jsonl").write_text(json.dumps(log(loss)) + "\n")
    write_json(tmp_path / keys[2] / "record.json", {"state": "failed", "reason": "NaN", "retry": False})
    write_json(tmp_path / keys[3] / "record.json", {"state": "failed", "reason": "lost node", "retry": True})
    again = sweep(tmp_path)
    states = [again.trials[key].state for key in keys]
    assert states == ["waiting", "waiting", "failed", "waiting"]
    following = again.next_trial()
    assert following is not None
    assert following.key == keys[0]
    again.start(following)
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
        made.close(trial, TrialState.FAILED, "test", retry=True)
    assert len(made.trials) == 6
    assert not made.over
