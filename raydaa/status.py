"""What a study is doing, read from its folder: from any terminal, while it runs or after it died."""

import contextlib
import fcntl
import time
from pathlib import Path
from typing import Any

from raydaa.progress import LATEST, duration
from raydaa.results import EVALUATION, TrialResults
from raydaa.store.artifacts import read_json
from raydaa.store.trial_folder import COSTS, OVER, PREFERENCE_LOSS, RECORD, SWEEP, read_metrics

STATES = (*OVER, "running", "waiting")


def status(folder: Path) -> str:
    """A few lines: stage and time left, trials by state, what runs, what failed and why, the best so far.

    ValueError where the folder holds no study.
    """
    latest, alive = read_json(folder / LATEST), running(folder)
    if latest is None:
        raise ValueError(f"{folder}: holds no study that was started")
    lines = [f"{folder.name}: {_stage(latest, alive)}"]
    sweep = read_json(folder / SWEEP)
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
    found = read_json(folder / COSTS) or {}
    price, judged = found.get("price_per_gpu_hour"), (read_json(folder / EVALUATION) or {}).get("benchmarks", ())
    told = f"; {hours * found['gpus'] * price:.2f} for GPUs" if price is not None and found["gpus"] else ""
    costs = [each["cost"] for each in judged if each.get("cost") is not None]
    return f"{told}; {sum(costs):.2f} for judging" if costs else told


def running(folder: Path) -> bool:
    """Whether a run holds the study folder."""
    try:
        with (folder / ".lock").open() as lock:
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
        place = folder / "trials" / trial["key"]
        self.label, self.steps = trial["label"], trial["steps"]
        record = read_json(place / RECORD) or {}
        metrics = read_metrics(place)
        self.state = "waiting" if trial["state"] == "running" and not alive else trial["state"]
        if record.get("state") in OVER:
            self.state = record["state"]
        self.reason = record.get("reason")
        self.step = metrics[-1]["step"] if metrics else 0
        self.loss = metrics[-1]["loss"] if metrics else None
        self.seconds = metrics[-1]["seconds"] if metrics else 0.0
        self.quality: float | None = next((m[PREFERENCE_LOSS] for m in reversed(metrics) if PREFERENCE_LOSS in m), None)


def _trials(trials: list[_Trial]) -> list[str]:
    counts = [(sum(trial.state == state for trial in trials), state) for state in STATES]
    lines = ["trials: " + ", ".join(f"{count} {state}" for count, state in counts if count)]
    for trial in trials:
        if trial.state == "running":
            loss = "" if trial.loss is None else f", loss {trial.loss:.3f}"
            lines.append(f"  running {trial.label}: step {trial.step}/{trial.steps}{loss}")
        elif trial.state == "failed":
            lines.append(f"  failed {trial.label}: {trial.reason}")
    return lines


def _best(folder: Path, trials: list[_Trial]) -> list[str]:
    """What the report names where the models were looked at, else the lowest held-out loss so far."""
    if all(trial.state in OVER for trial in trials) and (folder / EVALUATION).exists():
        with contextlib.suppress(ValueError):
            return [TrialResults.load(folder).summary()]
    known = [(t.quality, t) for t in trials if t.quality is not None and t.state not in ("failed", "stopped")]
    if not known:
        return []
    quality, best = min(known, key=lambda pair: pair[0])
    at = "" if best.state == "finished" else f" at step {best.step}/{best.steps}"
    return [f"best so far: {best.label}, held-out preference loss {quality:.3f}{at}"]
