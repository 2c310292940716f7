"""Which trials' models stay on the disk."""

import shutil
from collections.abc import Iterable

from raydaa.pipeline.context import Context
from raydaa.pipeline.training import Trial
from raydaa.results import TrialResults
from raydaa.store.artifacts import model_hash, read_json, write_json
from raydaa.store.mirror import STUDY, MirrorError
from raydaa.store.trial_folder import MODEL, RECORD, REMOVED
from raydaa.trial_row import TrialRow


def remove_dominated(context: Context, results: TrialResults) -> TrialResults:
    """The results without the models that were judged and that nobody would choose; figures and answers stay."""
    if context.settings.storage.keep == "all" or not results.judged:
        return results
    kept = {row.key for row in results.worth_keeping()}
    judged = [row.key for row in results if row.win_rate is not None]
    lost = [results.folder / "trials" / key for key in judged if key not in kept]
    lost = [folder for folder in lost if (folder / MODEL).exists()]
    for folder in lost:
        record = read_json(folder / RECORD) or {}
        write_json(folder / RECORD, {**record, REMOVED: record.get(REMOVED) or model_hash(folder / MODEL)})
    # The records first, here and in the mirror: a trial that has neither that nor a model is trained again.
    sent = bool(lost) and context.send()
    for folder in lost:
        shutil.rmtree(folder / MODEL)
        if sent and context.mirror is not None:
            try:
                context.mirror.drop(f"{STUDY}/trials/{folder.name}/{MODEL}")
            except MirrorError as error:
                context.progress.line(f"mirror    {error}")
    return TrialResults.load(results.folder)


def reopened(context: Context, trials: Iterable[Trial | TrialRow]) -> bool:
    """Whether some of ``trials``, which must have a model, have none any more: those are to be trained again."""
    found = False
    for trial in trials:
        place = context.folder / "trials" / trial.key / RECORD
        if REMOVED in (read_json(place) or {}):
            # Not unlinked: a mirror would bring the old one back.
            write_json(place, {"state": "reopened"})
            context.progress.line(f"align     {trial.label} is trained again: its model was removed and is needed")
            found = True
    return found
