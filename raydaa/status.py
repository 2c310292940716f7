"""What a study is doing, read from its folder: from any terminal, while it runs or after it died."""

import contextlib
import fcntl
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydaa.evaluation.figures import Evaluation
from raydaa.progress import duration
from raydaa.reporting.summary import summarize
from raydaa.results import TrialResults
from raydaa.store.records import PREFERENCE_LOSS, Trial, TrialState
from raydaa.store.study_folder import StudyFolder

STATES = (TrialState.FINISHED, TrialState.STOPPED, TrialState.FAILED, TrialState.RUNNING, TrialState.WAITING)


@dataclass(frozen=True)
class StageStatus:
    """The newest line of a study's log, and what it says; times in seconds."""

    running: bool
    stage: str
    line: str
    age: float  # since it was written
    elapsed: float
    left: float | None


@dataclass(frozen=True)
class TrialStatus:
    """How far one trial is; ``loss`` is the last step's, ``preference_loss`` that on held-out pairs."""

    label: str
    state: TrialState
    step: int
    steps: int
    loss: float | None
    preference_loss: float | None
    seconds: float
    reason: str | None
    setting: str = ""  # what trials that differ by the seed alone have in common


@dataclass(frozen=True)
class CostStatus:
    """Hours of workers so far and still to come, and what GPUs and judging cost where the study names prices."""

    worker_hours: float
    worker_hours_left: float | None
    gpus: float | None
    judging: float | None


@dataclass(frozen=True)
class Status:
    """``summary`` is what the report names, once all trials are over and were looked at."""

    name: str
    stage: StageStatus
    trials: tuple[TrialStatus, ...] = ()
    cost: CostStatus | None = None
    summary: str | None = None


def read_status(folder: Path) -> Status:
    """ValueError where the folder holds no study."""
    at = StudyFolder(folder)
    alive = is_running(folder)
    at.check_format()
    latest = at.progress.read()
    if latest is None:
        raise ValueError(f"{folder}: holds no study that was started")
    age = max(0.0, time.time() - latest.at)
    stage = StageStatus(alive, latest.stage, latest.line, age, latest.elapsed, latest.left)
    sweep = at.sweep.read()
    if sweep is None:
        return Status(folder.name, stage)
    trials = tuple(_trial(at, trial, alive) for trial in sweep.trials)
    hours = sum(trial.seconds for trial in trials) * sweep.workers / 3600
    left = stage.left * sweep.slots * sweep.workers / 3600 if alive and stage.left else None
    return Status(folder.name, stage, trials, _cost(at, hours, left), _summary(at, trials))


def is_running(folder: Path) -> bool:
    """Whether a run holds the study folder."""
    try:
        with StudyFolder(folder).lock.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _trial(at: StudyFolder, trial: Trial, alive: bool) -> TrialStatus:
    """One trial as its own folder tells it, where that is newer than the sweep's list."""
    folder = at.trial(trial.key)
    record = folder.record.read()
    metrics = folder.read_metrics()
    now = trial.state
    if now == TrialState.RUNNING and not alive:
        now = TrialState.WAITING
    if record is not None and record.state.is_over:
        now = record.state
    last: dict[str, Any] = metrics[-1] if metrics else {"step": 0, "loss": None, "seconds": 0.0}
    held_out = next((m[PREFERENCE_LOSS] for m in reversed(metrics) if PREFERENCE_LOSS in m), None)
    reason = None if record is None else record.reason
    return TrialStatus(
        label=trial.label,
        state=now,
        step=last["step"],
        steps=trial.steps,
        loss=last["loss"],
        preference_loss=held_out,
        seconds=last["seconds"],
        reason=reason,
        setting=trial.point.setting,
    )


def _cost(at: StudyFolder, hours: float, left: float | None) -> CostStatus:
    costs = at.costs.read()
    evaluation = at.evaluation.read() or Evaluation()
    judging = [benchmark.cost for benchmark in evaluation.benchmarks if benchmark.cost is not None]
    paid = None
    if costs is not None and costs.price_per_gpu_hour is not None and costs.gpus:
        paid = hours * costs.gpus * costs.price_per_gpu_hour
    return CostStatus(hours, left, paid, sum(judging) if judging else None)


def _summary(at: StudyFolder, trials: tuple[TrialStatus, ...]) -> str | None:
    if all(trial.state.is_over for trial in trials) and at.evaluation.exists():
        with contextlib.suppress(ValueError):
            return summarize(TrialResults.load(at.path))
    return None


def render_status(status: Status) -> str:
    """A few lines: stage and time left, trials by state, what runs, what failed and why, the best so far."""
    lines = [f"{status.name}: {_stage(status.stage)}"]
    if status.cost is not None:
        lines += _trials(status.trials)
        best = status.summary or _best(status.trials)
        lines += [best] if best else []
        lines.append(_money(status.cost))
    return "\n".join(lines)


def _stage(stage: StageStatus) -> str:
    ago = duration(stage.age)
    if not stage.running:
        return f"not running; its last line, {ago} ago: {stage.line}"
    left = f", about {duration(stage.left)} left" if stage.left else ""
    return f"running, in {stage.stage} for {duration(stage.elapsed)}{left} (as of {ago} ago)"


def _trials(trials: tuple[TrialStatus, ...]) -> list[str]:
    counts = Counter(trial.state for trial in trials)
    lines = ["trials: " + ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])]
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            loss = "" if trial.loss is None else f", loss {trial.loss:.3f}"
            lines.append(f"  running {trial.label}: step {trial.step}/{trial.steps}{loss}")
        elif trial.state == TrialState.FAILED:
            lines.append(f"  failed {trial.label}: {trial.reason}")
    return lines


def _best(trials: tuple[TrialStatus, ...]) -> str | None:
    """The setting with the lowest held-out loss so far, by the mean over its seeds; until somebody has judged, settings
    have nothing else to be ranked by."""
    out = (TrialState.FAILED, TrialState.STOPPED)
    by_setting: dict[str, list[TrialStatus]] = {}
    for trial in trials:
        if trial.preference_loss is not None and trial.state not in out:
            by_setting.setdefault(trial.setting, []).append(trial)
    if not by_setting:
        return None
    best = min(by_setting.values(), key=_mean_loss)
    shown = best[0]
    at = "" if shown.state == TrialState.FINISHED else f" at step {shown.step}/{shown.steps}"
    seeds = f", the mean of {len(best)} seeds" if len(best) > 1 else ""
    return f"best so far: {shown.label}, held-out preference loss {_mean_loss(best):.3f}{seeds}{at}"


def _mean_loss(trials: Sequence[TrialStatus]) -> float:
    losses = [trial.preference_loss for trial in trials if trial.preference_loss is not None]
    return sum(losses) / len(losses)


def _money(cost: CostStatus) -> str:
    left = "" if cost.worker_hours_left is None else f", about {cost.worker_hours_left:.2f} left"
    gpus = "" if cost.gpus is None else f"; {cost.gpus:.2f} for GPUs"
    judging = "" if cost.judging is None else f"; {cost.judging:.2f} for judging"
    return f"cost: {cost.worker_hours:.2f} worker-hours{left}{gpus}{judging}"
