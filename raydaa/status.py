"""What a study is doing, read from its folder: from any terminal, while it runs or after it died."""

import contextlib
import fcntl
import time
from pathlib import Path
from typing import Any

from raydaa.progress import duration
from raydaa.results import TrialResults
from raydaa.store.artifacts import read_json
from raydaa.store.study_folder import PREFERENCE_LOSS, StudyFolder, TrialState

STATES = (TrialState.FINISHED, TrialState.STOPPED, TrialState.FAILED, TrialState.RUNNING, TrialState.WAITING)


def status(folder: Path) -> str:
    """A few lines: stage and time left, trials by state, what runs, what failed and why, the best so far.

    ValueError where the folder holds no study.
    """
    at, alive = StudyFolder(folder), running(folder)
    latest = read_json(at.latest)
    if latest is None:
        raise ValueError(f"{folder}: holds no study that was started")
    lines = [f"{folder.name}: {_stage(latest, alive)}"]
    sweep = read_json(at.sweep)
    if sweep is not None:
        trials = [_Trial(folder, trial, alive) for trial in sweep["trials"]]
        lines += _trials(trials)
        lines += _best(folder, trials)
        spent = sum(trial.seconds for trial in trials) * sweep["workers"] / 3600
        left = latest.get("left")
        more = f", about {left * sweep['slots'] * sweep['workers'] / 3600:.2f} left" if alive and left else ""
        lines.append(f"cost: {spent:.2f} worker-hours{more}{_money(folder, spent)}")
    return "\n".join(lines)


def _money(folder: Path, hours: float) -> str:
    """What the workers' hours and the verdicts so far cost, where the study names prices."""
    at = StudyFolder(folder)
    found, evaluation = read_json(at.costs) or {}, read_json(at.evaluation) or {}
    price, judged = found.get("price_per_gpu_hour"), evaluation.get("benchmarks", ())
    told = f"; {hours * found['gpus'] * price:.2f} for GPUs" if price is not None and found["gpus"] else ""
    costs = [each["cost"] for each in judged if each.get("cost") is not None]
    return f"{told}; {sum(costs):.2f} for judging" if costs else told


def running(folder: Path) -> bool:
    """Whether a run holds the study folder."""
    try:
        with StudyFolder(folder).lock.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _stage(latest: dict[str, Any], alive: bool) -> str:
    ago = duration(max(0.0, time.time() - latest["at"]))
    if not alive:
        return f"not running; its last line, {ago} ago: {latest['line']}"
    left = f", about {duration(latest['left'])} left" if latest.get("left") else ""
    return f"running, in {latest['stage']} for {duration(latest['elapsed'])}{left} (as of {ago} ago)"


class _Trial:
    """One trial as its folder tells it."""

    def __init__(self, folder: Path, trial: dict[str, Any], alive: bool) -> None:
        place = StudyFolder(folder).trial(trial["key"])
        self.label, self.steps = trial["label"], trial["steps"]
        record = place.read_record()
        metrics = place.read_metrics()
        self.state = TrialState(trial["state"])
        if self.state == TrialState.RUNNING and not alive:
            self.state = TrialState.WAITING
        if record is not None and record.state.is_over:
            self.state = record.state
        self.reason = None if record is None else record.reason
        self.step = metrics[-1]["step"] if metrics else 0
        self.loss = metrics[-1]["loss"] if metrics else None
        self.seconds = metrics[-1]["seconds"] if metrics else 0.0
        self.quality: float | None = next((m[PREFERENCE_LOSS] for m in reversed(metrics) if PREFERENCE_LOSS in m), None)


def _trials(trials: list[_Trial]) -> list[str]:
    counts = [(sum(trial.state == state for trial in trials), state) for state in STATES]
    lines = ["trials: " + ", ".join(f"{count} {state}" for count, state in counts if count)]
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            loss = "" if trial.loss is None else f", loss {trial.loss:.3f}"
            lines.append(f"  running {trial.label}: step {trial.step}/{trial.steps}{loss}")
        elif trial.state == TrialState.FAILED:
            lines.append(f"  failed {trial.label}: {trial.reason}")
    return lines


def _best(folder: Path, trials: list[_Trial]) -> list[str]:
    """What the report names where the models were looked at, else the lowest held-out loss so far."""
    if all(trial.state.is_over for trial in trials) and StudyFolder(folder).evaluation.exists():
        with contextlib.suppress(ValueError):
            return [TrialResults.load(folder).summary()]
    known = [
        (t.quality, t)
        for t in trials
        if t.quality is not None and t.state not in (TrialState.FAILED, TrialState.STOPPED)
    ]
    if not known:
        return []
    quality, best = min(known, key=lambda pair: pair[0])
    at = "" if best.state == TrialState.FINISHED else f" at step {best.step}/{best.steps}"
    return [f"best so far: {best.label}, held-out preference loss {quality:.3f}{at}"]
