"""A run from stop to stop: metrics logged, checkpoints written, and taken up again."""

import json
import math
from collections.abc import Callable
from pathlib import Path

from raydaa.store.artifacts import write_text
from raydaa.store.study_folder import TrialFolder
from raydaa.store.tables import HELD_OUT
from raydaa.training.collectives import from_all, rank
from raydaa.training.run import Metrics, Run


def validation_steps(run: Run) -> list[int]:
    """Steps at which the run is validated: evenly spaced ones, the rungs, and the end."""
    total = run.total_steps
    even = {
        round(total * (i + 1) / run.spec.recipe.training.validations)
        for i in range(run.spec.recipe.training.validations)
    }
    return sorted({max(1, s) for s in even | set(rung_steps(run.spec.recipe.rungs, total))} | {total})


def rung_steps(rungs: tuple[float, ...], total_steps: int) -> list[int]:
    """The step of each rung: a share of the trial's own steps, at least 1."""
    return [max(1, math.ceil(share * total_steps)) for share in rungs]


def train_until(run: Run, folder: Path, until: int, notify: Callable[[Metrics], None] = lambda _: None) -> Metrics:
    """Train up to step ``until``: metrics appended to ``folder/metrics.jsonl``, checkpoints to ``folder/checkpoint``.

    Returns the metrics of the last step, with those of its validation. The first worker writes.
    """
    trial = TrialFolder(folder)
    validated = set(validation_steps(run))
    metrics: Metrics = {}
    while run.step < until:
        metrics = {"step": run.step + 1, "total_steps": run.total_steps, **run.train_step()}
        if run.step in validated:
            metrics |= run.validate()
        if run.step == run.total_steps:
            _keep_held_out(run, trial)
        metrics["seconds"] = run.seconds
        if rank() == 0:
            with trial.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(metrics) + "\n")
        notify(metrics)
        if run.step < until and run.save_is_due:
            run.save(trial.checkpoint)
    return metrics


def _keep_held_out(run: Run, trial: TrialFolder) -> None:
    """Each held-out pair's loss at the trial's end: how sure one is of their mean depends on how they differ."""
    losses: dict[int, float] = {}
    for of_worker in from_all(run.held_out_losses):
        losses |= of_worker
    if rank() == 0 and losses:
        rows = [{"row": row, "preference_loss": loss} for row, loss in sorted(losses.items())]
        HELD_OUT.write(trial.path, rows)


def resume(run: Run, folder: Path) -> None:
    """Load the newest checkpoint of ``folder`` and drop metrics of steps after it: they will be made again."""
    folder.mkdir(parents=True, exist_ok=True)
    trial = TrialFolder(folder)
    run.load(trial.checkpoint)
    if rank() == 0:
        kept = [metrics for metrics in trial.read_metrics() if metrics["step"] <= run.step]
        write_text(trial.metrics, "".join(json.dumps(m) + "\n" for m in kept))
