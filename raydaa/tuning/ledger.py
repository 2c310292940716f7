"""Where a sweep finds what was done before, and leaves what it decides: the trials' folders, or nowhere."""

import shutil
from pathlib import Path
from typing import Any

from raydaa.store.artifacts import intact
from raydaa.store.records import TrialRecord, TrialState
from raydaa.store.study_folder import TrialFolder
from raydaa.tuning.swept_trial import SweptTrial


class Ledger:
    """Of a sweep that is only thought through: nothing was done before, nothing is written."""

    def folder(self, key: str) -> TrialFolder:
        """A trial's."""
        return TrialFolder(Path(key))

    def read_metrics(self, trial: SweptTrial) -> list[dict[str, Any]]:
        """What a trial has logged."""
        return []

    def read_end(self, trial: SweptTrial) -> TrialState | None:
        """How a trial ended, where it need not be taken up again."""
        return None

    def write_end(self, trial: SweptTrial, reason: str, retry: bool) -> None:
        """The trial is over."""

    def drop_checkpoints(self, trial: SweptTrial) -> None:
        """The trial will not go on."""


class FolderLedger(Ledger):
    """The folders are the only truth: a sweep that starts again reads them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def folder(self, key: str) -> TrialFolder:
        """A trial's."""
        return TrialFolder(self.path / key)

    def read_metrics(self, trial: SweptTrial) -> list[dict[str, Any]]:
        """What a trial has logged."""
        return trial.folder.read_metrics()

    def read_end(self, trial: SweptTrial) -> TrialState | None:
        """How a trial ended, where it need not be taken up again: a finished one has its model, or was let go of."""
        record = trial.folder.record.read()
        if record is None:
            return None
        whole = trial.reached == trial.steps if record.removed is not None else intact(trial.folder.model)
        if record.state == TrialState.FINISHED and whole:
            return TrialState.FINISHED
        return TrialState.FAILED if record.state == TrialState.FAILED and not record.retry else None

    def write_end(self, trial: SweptTrial, reason: str, retry: bool) -> None:
        """Its record, unless its worker wrote it: of one that finished, or whose loss was no number."""
        record = trial.folder.record.read()
        failed_itself = record is not None and record.state == TrialState.FAILED
        if trial.state == TrialState.STOPPED or (trial.state == TrialState.FAILED and not failed_itself):
            trial.folder.record.write(TrialRecord(trial.state, reason, retry))

    def drop_checkpoints(self, trial: SweptTrial) -> None:
        """What it saved to go on from."""
        shutil.rmtree(trial.folder.checkpoint, ignore_errors=True)
