"""The stages in their order, found by their files."""

import importlib
import pkgutil
from functools import cache
from graphlib import TopologicalSorter

from raydaa.pipeline import stages
from raydaa.pipeline.stage import Stage


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
        ready.sort(key=lambda stage: (stage.elsewhere, stage.name))
        ordered += ready
        sorter.done(*(stage.name for stage in ready))
    return tuple(ordered)


def before(stage: Stage) -> tuple[str, ...]:
    """The stages whose outputs one needs."""
    if not stage.last:
        return stage.after
    return tuple(other.name for other in _found_stages() if not other.last)


@cache
def _found_stages() -> tuple[Stage, ...]:
    """By their files."""
    names = [f"{stages.__name__}.{module.name}" for module in pkgutil.iter_modules(stages.__path__)]
    return tuple(importlib.import_module(name).STAGE for name in names)
