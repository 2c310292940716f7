"""Study files for tests."""

import copy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from raydaa.results import TrialResults
from raydaa.trial_row import TIME_COLUMNS

MICRO: dict[str, Any] = {
    "name": "micro",
    "model": {"source": "pocket"},
    "pocket": {"num_sft": 300, "num_pairs": 160, "num_validation": 64, "num_prompts": 40, "noise": 0.5},
    "data": {
        "sft": {"source": "pocket"},
        "preferences": {"source": "pocket"},
        "prompts": {"source": "pocket"},
        "max_length": 64,
    },
    "sft": {"learning_rate": 3.0e-3, "epochs": 1, "batch_size": 16},
    "training": {"batch_size": 16, "precision": "fp32", "tokens_per_microbatch": 512, "checkpoint_every": 4},
    "search": {
        "learning_rate": [3.0e-4, 1.0e-3],
        "methods": [{"name": "dpo", "beta": [0.1]}, {"name": "orpo", "beta": [0.5]}],
        "early_stopping": {"rungs": [0.3]},
    },
    "generation": {"engine": "transformers", "temperature": 1.0, "top_k": 0, "max_new_tokens": 16},
    "evaluation": {"judge": "rule"},
}


def micro(**changes: Any) -> dict[str, Any]:
    """The micro study; ``changes`` replace whole top-level groups."""
    return {**copy.deepcopy(MICRO), **changes}


def written(folder: Path, tree: dict[str, Any]) -> Path:
    """``tree`` as a study file in ``folder``."""
    path = folder / f"{tree['name']}.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def done(result: subprocess.CompletedProcess[str]) -> str:
    """What a command that went well printed."""
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def begun(undisturbed: Path, folder: Path) -> Path:
    """``folder`` as a study whose stages before the sweep are done, as they were in ``undisturbed``."""
    shutil.copytree(undisturbed / "sft", folder / "sft")
    return folder


def table(folder: Path) -> list[dict[str, Any]]:
    """A study's table without what may differ between two runs: times and paths."""
    return TrialResults.load(folder).table.drop_columns([*TIME_COLUMNS, "checkpoint"]).to_pylist()
