"""Which trials' models stay on the disk."""

import shutil
from collections.abc import Iterable
from dataclasses import replace

from raydaa.pipeline.context import Context
from raydaa.reporting.results import TrialResults
from raydaa.store.artifacts import model_hash
from raydaa.store.mirror import STUDY, MirrorError
from raydaa.store.records import Trial, TrialRecord, TrialState
from raydaa.trial_row import TrialRow


def remove_dominated(context: Context, results: TrialResults) -> TrialResults:
    """The results without the models that were judged and that nobody would choose; figures and answers stay."""
    if context.settings.storage.keep == "all" or not results.judged:
        return results
    kept = {row.key for row in results.worth_keeping()}
    judged = [row.key for row in results if row.win_rate is not None]
    lost = [results.at.trial(key) for key in judged if key not in kept]
    lost = [folder for folder in lost if folder.model.exists()]
    for folder in lost:
        record = folder.record.read() or TrialRecord(TrialState.FINISHED)
        folder.record.write(replace(record, removed=record.removed or model_hash(folder.model)))
    # The records first, here and in the mirror: a trial that has neither that nor a model is trained again.
    sent = bool(lost) and context.send()
    for folder in lost:
        shutil.rmtree(folder.model)
        if sent and context.mirror is not None:
            try:
                context.mirror.drop(f"{STUDY}/{folder.model.relative_to(results.folder)}")
            except MirrorError as error:
                context.progress.line(f"mirror    {error}")
    return TrialResults.load(results.folder)


def reopen_missing(context: Context, trials: Iterable[Trial | TrialRow]) -> bool:
    """Whether some of ``trials``, which must have a model, have none any more: those are to be trained again."""
    reopened = False
    for trial in trials:
        folder = context.at.trial(trial.key)
        record = folder.record.read()
        if record is not None and record.removed is not None:
            # Not unlinked: a mirror would bring the old one back.
            folder.record.write(TrialRecord(TrialState.WAITING))
            context.progress.line(f"align     {trial.label} is trained again: its model was removed and is needed")
            reopened = True
    return reopened
