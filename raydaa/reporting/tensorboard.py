"""Metrics of a trial as TensorBoard events: an export of its log, never read back."""

import shutil
from pathlib import Path

from raydaa.store.study_folder import TrialFolder


def export_trial(trial: TrialFolder, target: Path) -> None:
    """Write every logged metric of the trial folder ``trial`` to ``target``."""
    from tensorboardX import SummaryWriter

    shutil.rmtree(target, ignore_errors=True)
    with SummaryWriter(str(target)) as writer:
        for metrics in trial.read_metrics():
            for name, value in metrics.items():
                if name not in ("step", "total_steps") and not isinstance(value, str):
                    writer.add_scalar(name, value, metrics["step"])
