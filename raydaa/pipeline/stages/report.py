"""The stage report: the best models handed over, tables, figures, and one page."""

import shutil

from raydaa.pipeline.context import Context
from raydaa.pipeline.export_best import export_best
from raydaa.pipeline.prune_models import remove_dominated
from raydaa.pipeline.stage import Count, Recorded, RecordStage
from raydaa.reporting.report import write_report
from raydaa.reporting.results import TrialResults


def results(context: Context) -> TrialResults:
    """What came out of the study."""
    return TrialResults.load(context.folder)


def _about(context: Context) -> str:
    return str(context.at.page)


def _report(context: Context) -> Recorded:
    shutil.rmtree(context.at.ray, ignore_errors=True)
    every = TrialResults.load(context.folder)
    export_best(every)
    context.know(results, remove_dominated(context, every))
    write_report(context.once(results), context.at.report)
    return Recorded("written")


def _look(context: Context) -> Count:
    return Count(int(context.at.page.exists()), 1)


STAGE = RecordStage(
    name="report",
    writes="tables, figures, one page, the best models",
    depends_on="everything above",
    engine="this process",
    last=True,
    about=_about,
    record=_report,
    look=_look,
)
