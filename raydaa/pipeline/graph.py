"""The stages in their order, found by their files."""

import importlib
import pkgutil
from functools import cache
from graphlib import TopologicalSorter

from raydaa.pipeline import stages
from raydaa.pipeline.stage import RunnableStage, Stage


@cache
def all_stages() -> tuple[Stage, ...]:
    """Every stage after those whose outputs it needs; those that say so last.

    Among stages that could come next, those that keep the cluster's machines busy come first, then the alphabet says.
    """
    by_name = {stage.name: stage for stage in _found_stages()}
    sorter = TopologicalSorter({name: before(stage) for name, stage in by_name.items()})
    sorter.prepare()
    ordered: list[Stage] = []
    while sorter.is_active():
        ready = [by_name[name] for name in sorter.get_ready()]
        ready.sort(key=lambda stage: (isinstance(stage, RunnableStage) and stage.elsewhere, stage.name))
        ordered += ready
        sorter.done(*(stage.name for stage in ready))
    return tuple(ordered)


def runnable_stages() -> list[RunnableStage]:
    """Those that are run once the tables are prepared and there is a cluster."""
    return [stage for stage in all_stages() if isinstance(stage, RunnableStage)]


def before(stage: Stage) -> tuple[str, ...]:
    """The stages whose outputs one needs."""
    if not _is_last(stage):
        return stage.after
    return tuple(other.name for other in _found_stages() if not _is_last(other))


def _is_last(stage: Stage) -> bool:
    return isinstance(stage, RunnableStage) and stage.last


@cache
def _found_stages() -> tuple[Stage, ...]:
    """By their files."""
    names = [f"{stages.__name__}.{module.name}" for module in pkgutil.iter_modules(stages.__path__)]
    return tuple(importlib.import_module(name).STAGE for name in names)
