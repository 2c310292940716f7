"""What a study is doing, told from its folder alone."""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from raydaa.cli import main
from raydaa.progress import Progress
from raydaa.status import read_status, render_status
from raydaa.store.records import FormatRecord, Point, ProgressRecord, SweepRecord, Trial, TrialRecord, TrialState
from raydaa.store.study_folder import FORMAT, StudyFolder

TRIALS = [("a", "finished"), ("b", "running"), ("c", "failed"), ("d", "waiting"), ("e", "stopped")]


def metrics(step: int, quality: float | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"step": step, "loss": 1 / step, "seconds": 9.0 * step}
    return found if quality is None else {**found, "validation/preference_loss": quality}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    study = tmp_path / "mine"
    at = StudyFolder(study)
    points = {key: Point("sft", "dpo", {}, rate * 1e-3, 0) for rate, (key, _) in enumerate(TRIALS, start=1)}
    at.write_format()
    at.settings.write_text("name: mine\n")
    made = [
        Trial(key, "dpo", "dpo", "pairwise", TrialState(state), 8, f"dpo {key}", points[key]) for key, state in TRIALS
    ]
    at.sweep.write(SweepRecord(workers=2, slots=3, trials=tuple(made)))
    logs = {"a": [metrics(4, 0.7), metrics(8, 0.5)], "b": [metrics(2, 0.55), metrics(3)], "e": [metrics(2, 0.1)]}
    for key, rows in logs.items():
        (study / "trials" / key).mkdir(parents=True)
        (study / "trials" / key / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    at.trial("a").record.write(TrialRecord(TrialState.FINISHED))
    at.trial("c").record.write(TrialRecord(TrialState.FAILED, "the loss is nan at step 2"))
    at.trial("e").record.write(TrialRecord(TrialState.STOPPED, "others were better"))
    at.progress.write(ProgressRecord("align", "align x", elapsed=60.0, left=1200.0, at=time.time()))
    at.lock.touch()
    return study


def test_while_it_runs(folder: Path) -> None:
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = render_status(read_status(folder)).splitlines()
    assert lines[0].startswith("mine: running, in align for 1m00s, about 20m00s left (as of ")
    assert lines[1] == "trials: 1 finished, 1 stopped, 1 failed, 1 running, 1 waiting"
    assert "  running dpo b: step 3/8, loss 0.333" in lines
    assert "  failed dpo c: the loss is nan at step 2" in lines
    assert "best so far: dpo a, held-out preference loss 0.500" in lines
    # (72 + 27 + 18) seconds on 2 workers; 20 minutes of 3 slots of 2 workers.
    assert lines[-1] == "cost: 0.07 worker-hours, about 2.00 left"


def test_after_it_died(folder: Path) -> None:
    lines = render_status(read_status(folder)).splitlines()
    assert lines[0].startswith("mine: not running; its last line, ")
    assert lines[1] == "trials: 1 finished, 1 stopped, 1 failed, 2 waiting"
    assert lines[-1] == "cost: 0.07 worker-hours"


def test_before_the_sweep(tmp_path: Path) -> None:
    StudyFolder(tmp_path).write_format()
    progress = Progress(os.open(os.devnull, os.O_WRONLY), latest=StudyFolder(tmp_path).progress)
    progress.start("sft", "9 steps")
    assert render_status(read_status(tmp_path)).splitlines()[0].endswith("sft       9 steps")


def test_the_same_as_json(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(folder), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["stage"]["stage"], told["stage"]["running"]) == ("align", False)
    assert [(trial["label"], trial["state"], trial["step"]) for trial in told["trials"]][:2] == [
        ("dpo a", "finished", 8),
        ("dpo b", "waiting", 3),
    ]
    assert told["cost"]["worker_hours"] == pytest.approx((72 + 27 + 18) * 2 / 3600)


def test_another_versions_folder_is_refused_by_name(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    StudyFolder(folder).format.write(FormatRecord(FORMAT + 1))
    assert main(["status", str(folder)]) == 2
    told = f"{folder}: was written in format {FORMAT + 1}, and this version reads {FORMAT}; use another folder"
    assert told in capfd.readouterr().err
    StudyFolder(folder).format.remove()
    assert main(["report", str(folder)]) == 2
    assert "was written before study folders had a format" in capfd.readouterr().err


def test_no_study(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path / "none")]) == 2
    assert "holds no study that was started" in capfd.readouterr().err
