"""Sweeps of trials that nobody trains."""

from pathlib import Path
from typing import Any

from raydaa.settings.search import EarlyStopping, SearchSettings
from raydaa.store.artifacts import key_of
from raydaa.store.records import Point
from raydaa.training.spec import Recipe
from raydaa.tuning.ledger import FolderLedger
from raydaa.tuning.search_space import groups
from raydaa.tuning.sweep import Sweep
from raydaa.tuning.sweep_budget import SweepBudget
from tests.training.runs import run_spec


def search(**changes: Any) -> SearchSettings:
    tree = {"learning_rate": [1e-4, 1e-3], "methods": [{"name": "dpo", "beta": [0.1, 0.2]}], **changes}
    return SearchSettings.model_validate(tree)


def spec(point: Point) -> tuple[str, Recipe]:
    made = run_spec(
        learning_rate=point.learning_rate,
        batch_size=1,
        tokens_per_microbatch=1,
        seed=point.seed,
        checkpoint_every=1,
        validations=1,
        method=point.method,
        parameters=point.parameters,
        rungs=(0.5,),
    ).recipe
    return key_of(rate=point.learning_rate, beta=point.parameters["beta"], fraction=point.fraction), made


def sweep(folder: Path, within: str = "beta", budget: SweepBudget | None = None, **changes: Any) -> Sweep:
    early = EarlyStopping.model_validate({"within": within, "rungs": [0.5], "keep": 0.5})
    return Sweep(groups(search(**changes)), spec, FolderLedger(folder), early, table_size=10, budget=budget)


def log(loss: float) -> dict[str, float]:
    return {"step": 5, "validation/preference_loss": loss}
