"""Which trials' models stay on the disk."""

import shutil
from collections.abc import Iterable

from raydaa.artifacts import model_hash, read_json, write_json
from raydaa.mirror import STUDY, MirrorError
from raydaa.pipeline.context import Context
from raydaa.pipeline.training import Trial
from raydaa.results import TrialResults, TrialRow
from raydaa.trial_folder import MODEL, RECORD, REMOVED


def remove_dominated(context: Context, results: TrialResults) -> TrialResults:
    """The results without the models that nobody would choose; their figures and answers stay."""
    if context.settings.storage.keep == "all":
        return results
    kept = {row.key for row in results.worth_keeping()}
    for row in results:
        folder = results.folder / "trials" / row.key
        if row.key in kept or not (folder / MODEL).exists():
            continue
        record = read_json(folder / RECORD) or {}
        if REMOVED not in record:  # the record first: without both the trial would be trained again
            write_json(folder / RECORD, {**record, REMOVED: model_hash(folder / MODEL)})
        shutil.rmtree(folder / MODEL)
        if context.mirror is not None:
            try:
                context.mirror.drop(f"{STUDY}/trials/{row.key}/{MODEL}")
            except MirrorError as error:
                context.progress.line(f"mirror    {error}")
    return TrialResults.load(results.folder)


def reopened(context: Context, trials: Iterable[Trial | TrialRow]) -> bool:
    """Whether some of ``trials``, which must have a model, have none any more: those are to be trained again."""
    found = False
    for trial in trials:
        place = context.folder / "trials" / trial.key / RECORD
        if REMOVED in (read_json(place) or {}):
            place.unlink()
            found = True
    return found
