"""The stage report: the best models handed over, tables, figures, and one page."""

import shutil

from raydaa.pipeline.context import Context
from raydaa.pipeline.export_best import export_best
from raydaa.pipeline.prune_models import remove_dominated
from raydaa.pipeline.stage import Count, RecordStage
from raydaa.reporting.report import write_report
from raydaa.reporting.results import TrialResults


def _report(context: Context) -> None:
    shutil.rmtree(context.at.ray, ignore_errors=True)
    context.progress.start("report", str(context.at.page))
    results = TrialResults.load(context.folder)
    export_best(results)
    results = remove_dominated(context, results)
    write_report(results, context.at.report)
    context.send()
    context.progress.end("written")


def _look(context: Context) -> Count:
    return Count(int(context.at.page.exists()), 1)


STAGE = RecordStage(
    name="report",
    writes="tables, figures, one page, the best models",
    depends_on="everything above",
    engine="this process",
    go=_report,
    look=_look,
)
