"""What lies in a study's and a trial's folder, for those who write it and those who only look."""

import json
from pathlib import Path
from typing import Any

SPEC, RECORD, METRICS, MODEL = "settings.json", "record.json", "metrics.jsonl", "model"  # of a trial
TOKENS = "tokens_per_microbatch"  # in what a trial reports: fewer than it began with where there was no room for them
REMOVED = "removed"  # in the record of a trial whose model is no longer kept: the hash of its weights
OPTUNA = "optuna.db"  # of a study: its searches, as Optuna keeps them
COSTS = "costs.json"  # of a study: its worker groups, and what its reference log-probabilities took to make
VERSIONS = "versions.json"  # of a study: the packages of each run that had others than those before
SWEEP = "sweep.json"  # of a study: its trials and their states while it runs
OVER = ("finished", "stopped", "failed")  # states of a trial with which nothing is left to do
LOSS, ACCURACY, MARGIN = "validation/loss", "validation/rewards/accuracies", "validation/rewards/margins"  # of metrics
PREFERENCE_LOSS = "validation/preference_loss"  # what trials are compared by before anybody has judged them


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics logged so far, in order of steps; a line that was being written is left out."""
    log = folder / METRICS
    found: list[dict[str, Any]] = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else []:
        try:
            metrics = json.loads(line)
        except ValueError:
            continue
        if found and metrics["step"] <= found[-1]["step"]:
            continue
        found.append(metrics)
    return found
