"""Whole studies through the command line and from Python."""

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raydaa.results import TIME_COLUMNS, TrialResults
from tests.command import Command
from tests.studies import micro, written

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    made = Command(tmp_path_factory.mktemp("whole"))
    yield made
    assert made.wait_until_gone() == {}
    shutil.rmtree(made.ray, ignore_errors=True)


def done(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def table(folder: Path) -> list[dict[str, Any]]:
    """A study's table without what may differ between two runs: times and paths."""
    return TrialResults.load(folder).table.drop_columns([*TIME_COLUMNS, "checkpoint"]).to_pylist()


@pytest.fixture(scope="module")
def undisturbed(command: Command) -> tuple[Path, str]:
    """The micro study, run once from start to end: its folder and what the terminal showed."""
    study = written(command.folder, micro())
    folder = command.folder / "undisturbed"
    return folder, done(command.run("run", str(study), "--output", str(folder)))


def test_the_terminal_shows_raydaas_own_lines(undisturbed: tuple[Path, str]) -> None:
    folder, output = undisturbed
    lines = output.splitlines()
    assert all(line.startswith("[") for line in lines[:-1]), output
    for stage in ("prepare", "sft", "reference", "align", "generate", "score", "judge", "report"):
        assert any(f"] {stage} " in line for line in lines), stage
    assert lines[-1].startswith(f"{folder}/report/index.html: best is ")
    assert (folder / "logs" / "driver.log").stat().st_size > 0


def test_every_trial_has_its_record_and_figures(undisturbed: tuple[Path, str]) -> None:
    rows = TrialResults.load(undisturbed[0]).rows
    assert [row.state for row in rows].count("finished") == 2
    assert [row.state for row in rows].count("stopped") == 2
    for row in rows:
        assert row.validation_accuracy is not None
        assert 0 < row.validation_accuracy < 1
        if row.state == "stopped":
            assert row.step == 6  # 30 % of 20 steps
            continue
        assert row.step == row.steps == 20
        assert row.kl is not None
        assert row.win_rate is not None
        assert row.win_rate_low is not None
        assert row.win_rate_high is not None
        assert row.win_rate_low <= row.win_rate <= row.win_rate_high


def test_artefacts(undisturbed: tuple[Path, str]) -> None:
    folder, _ = undisturbed
    for name in ("study.yaml", "data.json", "rejects.jsonl", "trials.json", "evaluation.json", "optuna.db"):
        assert (folder / name).exists(), name
    for name in ("index.html", "tables.md", "trials.parquet", "pareto.png", "pareto.svg", "beta_curve.png"):
        assert (folder / "report" / name).stat().st_size > 0, name
    assert len(list((folder / "tensorboard").glob("*/events*"))) == 4
    assert not list(folder.glob("trials/*/checkpoint"))
    assert not (folder / "ray").exists()


def test_models_are_handed_over(undisturbed: tuple[Path, str]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    results = TrialResults.load(undisturbed[0])
    best = results.best("dpo")
    handed = undisturbed[0] / "best" / "dpo"
    assert best.checkpoint == str(handed)
    trained = undisturbed[0] / "trials" / best.key / "model"
    one, other = (AutoModelForCausalLM.from_pretrained(folder) for folder in (trained, handed))
    for mine, theirs in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    assert AutoTokenizer.from_pretrained(handed).chat_template
    assert json.loads((handed / "raydaa.json").read_text())["key"] == best.key
    assert "learning_rate" in (handed / "README.md").read_text()


def test_results_in_python(undisturbed: tuple[Path, str], tmp_path: Path) -> None:
    results = TrialResults.load(undisturbed[0])
    frame = results.to_pandas()
    assert list(frame["method"]) == ["dpo", "dpo", "orpo", "orpo"]
    front = results.pareto_front()
    assert front
    assert max(results, key=results.quality).win_rate == max(row.win_rate or 0 for row in front)
    assert results.report(tmp_path / "again").exists()
    with pytest.raises(ValueError, match="no trial of 'ipo' finished; the study has dpo, orpo"):
        results.best("ipo")


def test_running_again_makes_nothing_again(command: Command, undisturbed: tuple[Path, str]) -> None:
    folder, _ = undisturbed
    files = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/**/*") if "report" not in path.parts}
    before = table(folder)
    output = done(command.run("run", str(command.folder / "micro.yaml"), "--output", str(folder)))
    assert output.count("kept from before") == 4  # prepare, sft, reference, generate
    assert table(folder) == before
    changed = [path for path, time in files.items() if path.exists() and path.stat().st_mtime_ns != time]
    assert [path for path in changed if path.suffix in (".safetensors", ".parquet", ".jsonl")] == []


def test_report_is_made_again(command: Command, undisturbed: tuple[Path, str]) -> None:
    folder, output = undisturbed
    shutil.rmtree(folder / "report")
    assert done(command.run("report", str(folder))).splitlines()[-1] == output.splitlines()[-1]
    assert (folder / "report" / "index.html").exists()


def test_killed_twice_ends_with_the_same_table(command: Command, undisturbed: tuple[Path, str]) -> None:
    """SIGKILL in the sweep, then while responses are generated, then to the end."""
    folder = command.folder / "killed"
    arguments = ("run", str(command.folder / "micro.yaml"), "--output", str(folder))
    command.kill_at("trials over;", *arguments)
    assert command.wait_until_gone() == {}
    told = done(command.run("status", str(folder))).splitlines()
    assert "not running; its last line, " in told[0]
    assert told[1].startswith("trials: ")
    text = command.kill_at("] generate ", *arguments)
    assert command.wait_until_gone() == {}
    assert text.count("kept from before") == 3  # prepare, sft, reference
    done(command.run(*arguments))
    assert table(folder) == table(undisturbed[0])


def test_killed_trials_go_on(command: Command, undisturbed: tuple[Path, str]) -> None:
    """One actor dies in training, one at a rung, between two calls: the same trials finish and lose."""
    folder = command.folder / "one-killed"
    arguments = ("run", str(command.folder / "micro.yaml"), "--output", str(folder))
    output = command.kill_some(["ray::ResourceTrainable.train", "ray::OneWorkerTrial"], *arguments)
    assert "failed" not in output
    assert table(folder) == table(undisturbed[0])


def test_interrupted_says_how_to_go_on(command: Command) -> None:
    folder = command.folder / "interrupted"
    arguments = ("run", str(written(command.folder, micro())), "--output", str(folder))
    for moment in ("] sft ", "loss", "trials over;"):  # before a worker group, while it trains, and in the sweep
        text = command.kill_at(moment, *arguments, number=signal.SIGINT)
        assert text.splitlines()[-1] == "raydaa: interrupted; the same command goes on from here"
        assert command.wait_until_gone() == {}


def test_second_run_in_one_folder_is_refused(command: Command, tmp_path: Path) -> None:
    import fcntl

    folder = tmp_path / "busy"
    folder.mkdir()
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = command.run("run", str(command.folder / "micro.yaml"), "--output", str(folder))
    assert result.returncode == 2
    assert "another run is at work" in result.stderr


def test_edited_study_keeps_what_is_the_same(command: Command, undisturbed: tuple[Path, str]) -> None:
    """A learning rate more: the old trials stay, only the new one is trained."""
    folder = command.folder / "edited"
    shutil.copytree(undisturbed[0], folder)
    models = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/model/model.safetensors")}
    arguments = ["--output", str(folder), "--set", "search.methods[0].beta=[0.1, 0.4]"]
    done(command.run("run", str(command.folder / "micro.yaml"), *arguments))
    rows = TrialResults.load(folder).rows
    assert len(rows) == 6
    assert all(path.stat().st_mtime_ns == time for path, time in models.items())
    old = {row.key: row for row in TrialResults.load(undisturbed[0])}
    for row in rows:
        if row.key in old:
            assert (row.state, row.win_rate, row.kl) == (old[row.key].state, old[row.key].win_rate, old[row.key].kl)


def test_two_deepspeed_workers_run_a_study(command: Command) -> None:
    """Two trials that pause at their rung: the worker group goes home and comes back for the winner."""
    folder = command.folder / "deepspeed"
    search = {"learning_rate": [3.0e-4, 1.0e-3], "methods": [{"name": "dpo", "beta": [0.1]}]}
    tree = micro(name="deepspeed", scaling={"workers": 2, "engine": "deepspeed", "zero_stage": 2})
    tree["search"] = {**search, "early_stopping": {"rungs": [0.3]}}
    done(command.run("run", str(written(command.folder, tree)), "--output", str(folder)))
    rows = TrialResults.load(folder).rows
    assert sorted(row.state for row in rows) == ["finished", "stopped"]
    assert all(row.step == (20 if row.state == "finished" else 6) for row in rows)
