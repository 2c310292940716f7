"""Optuna 5.0."""

from typing import Any


def storage_of(study: Any) -> Any:
    """Where a study's trials lie: ``copy_study`` wants it, and a study in memory has no name for it."""
    return study._storage
