"""The stages in their order, found by their files."""

import importlib
import pkgutil
from functools import cache
from graphlib import TopologicalSorter

from raydaa.pipeline import stages
from raydaa.pipeline.stage import RunnableStage, Stage

REPORT = "report"


@cache
def all_stages() -> tuple[Stage, ...]:
    """Every stage after those whose outputs it needs; the report last.

    Among stages that could come next, those that keep the cluster's machines busy come first, then the alphabet says.
    """
    by_name: dict[str, Stage] = {}
    for module in pkgutil.iter_modules(stages.__path__):
        stage = importlib.import_module(f"{stages.__name__}.{module.name}").STAGE
        by_name[stage.name] = stage
    predecessors = {name: set(stage.after) for name, stage in by_name.items()}
    predecessors[REPORT] = set(by_name) - {REPORT}
    sorter = TopologicalSorter(predecessors)
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


def before(stage: Stage) -> list[str]:
    """The stages whose outputs one needs."""
    return [other.name for other in all_stages()[:-1]] if stage.name == REPORT else list(stage.after)
