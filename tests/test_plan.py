"""What a study will take, told before it starts."""

import json
import re
from pathlib import Path

import pytest
from transformers import LlamaConfig

from raydaa.cli import main
from raydaa.planning.estimate import make_plan
from raydaa.study import Study
from raydaa.tuning.simulate import simulate
from tests.studies import micro, written
from tests.tuning.sweeps import sweep


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def told(path: Path, capsys: pytest.CaptureFixture[str], *settings: str) -> str:
    options = [option for setting in settings for option in ("--set", setting)]
    assert main(["plan", str(path), *options]) == 0
    return capsys.readouterr().out


def test_the_micro_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = written(tmp_path, micro())
    text = told(study, capsys)
    assert text.startswith("micro: 4 trials\n  2 dpo from sft\n  2 orpo from sft\n")
    # 160 pairs in batches of 16: 10 steps a trial; one of each two stops at 3.
    assert "steps: 26 of 40, 65% of those without early stopping; 2 trials finish" in text
    assert "data: 160 train, 64 validation, 300 sft, 40 prompts" in text
    assert "name scaling.accelerator to have it in hours" in text
    assert "2 trained models, 2 of them copied" in text
    assert not (tmp_path / "studies").exists()


def test_hours_grow_with_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(written(tmp_path, micro()), capsys, "scaling={accelerator: A100-80G, workers: 8}")
    hours = [float(line.split()[0]) for line in text.partition("GPU-hours")[2].splitlines()[1:6]]
    assert re.search(
        r"saving: \d+ checkpoints of [\d.]+ [GM]B in a trial's \d+ min, \d+% of them at 0.5 GB a second", text
    )
    sft, reference, trials, unstopped, live = hours
    assert sft > 0 < reference
    assert trials < unstopped < live
    assert "A100-80G has 80.0 GB: fits" in text


def test_without_data_or_weights_a_config_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = LlamaConfig(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_key_value_heads=8)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    tree = micro(name="far", model={"source": "someone/somewhere", "config": str(tmp_path / "config.json")})
    tree["data"] = {"preferences": {"source": "someone/pairs"}, "sft": {"source": "someone/chats"}, "max_length": 4096}
    tree["training"] = {"batch_size": 128, "precision": "bf16"}
    tree["scaling"] = {"workers": 8, "accelerator": "A100-80G", "zero_stage": 3}
    tree["evaluation"] = {}
    text = told(written(tmp_path, tree), capsys)
    assert "far: 4 trials" in text
    assert "65% of those without early stopping" in text
    assert "data: could not be looked at, so tokens and hours are not known: someone/somewhere" in text
    assert "47.7 GB on each of 8 workers, ZeRO 3, bf16, 4096 tokens at a time" in text
    assert "80.0 GB: fits" in text
    assert "GPU-hours" not in text


def test_what_it_costs_is_told_where_there_are_prices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two trials finish, one of each method, and what they begin with is the baseline."""
    judge = {"kind": "openai", "model": "gpt", "price": {"input": 2.5, "output": 10.0}}
    tree = micro(evaluation={"judge": judge, "benchmarks": ["validation", "tldr"]})
    tree["scaling"] = {"accelerator": "A100-80G", "workers": 8, "price_per_gpu_hour": 1.0e9}
    text = told(written(tmp_path, tree), capsys)
    (hours,) = re.findall(r"GPU-hours: about ([\d.e-]+) at", text)
    (cost,) = re.findall(r"  ([\d.]+) at 1e\+09 a GPU-hour", text)
    assert float(cost) == pytest.approx(1e9 * float(hours), rel=0.01)
    games = re.findall(r"judging: (\w+): (\d+) games of (\d+) models", text)
    # Against sft, 40 prompts in both orders; against the chosen responses sft is judged as well.
    assert games == [("validation", "160", "2"), ("tldr", "192", "3")]
    prices = re.findall(r"; ([\d.]+) million tokens are sent at most, about ([\d.]+) million written: ([\d.]+)", text)
    assert len(prices) == 2
    for sent, said, cost in prices:
        assert float(cost) == pytest.approx(2.5 * float(sent) + 10 * float(said), abs=0.2)
    with_none = micro(evaluation={"judge": "rule"})
    assert "judging:" not in told(written(tmp_path, with_none), capsys)


@pytest.mark.parametrize("kind", ["rule", "none"])
def test_only_endpoints_are_paid_by_their_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    tree = micro(evaluation={"judge": {"kind": kind, "price": {"input": 1, "output": 1}}})
    assert main(["plan", str(written(tmp_path, tree))]) == 2
    assert "evaluation.judge.price: unknown key" in capsys.readouterr().err


def test_no_configuration_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = micro(name="far", model={"source": "someone/somewhere"})
    text = told(written(tmp_path, tree), capsys)
    assert "model: could not be looked at, so memory is not known; give model.config: " in text
    assert "memory:" not in text


@pytest.mark.slow
def test_a_study_keeps_to_the_disk_that_is_planned(
    disk_peak: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = re.search(r"disk: ([\d.]+) MB at most", told(written(tmp_path, micro()), capsys))
    assert planned is not None
    # Most checkpoints live for less than the moments between two looks: at the least what stays at the end is seen.
    # That more than 0.3 of the plan lies there at a time, the small disk of `faults/test_disk` shows.
    assert 0.25 < disk_peak / 1e6 / float(planned[1]) <= 1.0


def test_data_that_would_stop_the_study_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"question {i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(40)]
    rows[3]["rejected"] = rows[3]["chosen"]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = micro(name="own", evaluation={})
    tree["data"]["preferences"] = {"source": str(pairs), "validation": 0.2}
    tree["data"]["prompts"] = {"source": "preferences.validation"}
    text = told(written(tmp_path, tree), capsys)
    assert "data: the study would stop here: " in text
    assert "chosen equals rejected: 1; first rows: 1, 2, 3, 4, 5" in text


def test_the_same_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(written(tmp_path, micro())), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["trials"] == [{"count": 2, "title": name, "init": "sft"} for name in ("dpo", "orpo")]
    steps = {"planned": 26, "without_early_stopping": 40, "trials_finished": 2, "sized": True}
    assert found["steps"] == {**steps, "brackets": 2, "brackets_of_one": 0, "finalists": 0, "finalist_steps": 0}
    assert found["work"]["operations"]["trials"] > found["work"]["operations"]["reference"] > 0
    assert found["work"]["total_hours"] is None


def test_a_wrong_study_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(written(tmp_path, micro(search={})))]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_simulating_is_what_a_sweep_does(tmp_path: Path) -> None:
    simulated = simulate(sweep(tmp_path))
    assert [trial.state for trial in simulated.trials] == ["finished", "stopped", "finished", "stopped"]
    assert [trial.reached for trial in simulated.trials] == [10, 5, 10, 5]
    assert simulated.waiting == 1
    assert sum(trial.reached / trial.steps for trial in simulated.trials) == 3.0


def test_the_paper_needs_less_than_half(tmp_path: Path) -> None:
    """Four learning rates a bracket, rungs at 10 % and 30 %: 4 × 0.1 + 2 × 0.2 + 1 × 0.7 of 4 trials."""
    tree = micro()
    tree["search"] = {"learning_rate": [3e-7, 5e-7, 7e-7, 1e-6], "methods": [{"name": "dpo", "beta": [0.1, 0.2]}]}
    tree["training"]["batch_size"] = 4
    steps = make_plan(Study.from_tree(tree)).steps
    assert (steps.planned, steps.without_early_stopping, steps.trials_finished) == (120, 320, 2)
