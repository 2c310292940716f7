"""Trial states and records: what a trial may become, and what its folder says of it."""

from dataclasses import fields
from pathlib import Path

import pytest

from raydaa.errors import InputError
from raydaa.store.records import TRANSITIONS, TrialRecord, TrialState
from raydaa.store.study_folder import StudyFolder, TrialFolder


def test_a_trial_that_is_over_stays_so() -> None:
    over = [state for state in TrialState if state.is_over]
    assert over == [TrialState.FINISHED, TrialState.STOPPED, TrialState.FAILED]
    for state in over:
        for other in TrialState:
            with pytest.raises(AssertionError, match=f"from {state} to {other}"):
                state.to(other)


def test_one_that_runs_may_wait_or_end_and_one_that_waits_may_begin() -> None:
    assert set(TRANSITIONS) == set(TrialState)
    assert TrialState.RUNNING not in TRANSITIONS[TrialState.RUNNING]  # two workers would write into one folder
    assert {TrialState.WAITING, TrialState.FINISHED} <= TRANSITIONS[TrialState.RUNNING]
    assert TrialState.WAITING.to(TrialState.RUNNING) is TrialState.RUNNING


@pytest.mark.parametrize("state", list(TrialState))
def test_a_record_comes_back_as_it_was_written(tmp_path: Path, state: TrialState) -> None:
    folder = TrialFolder(tmp_path)
    assert folder.record.read() is None
    record = TrialRecord(state, "others were better", retry=True, steps=3, seconds=1.5, removed="ab12")
    assert all(getattr(record, field.name) != field.default for field in fields(TrialRecord))
    folder.record.write(record)
    assert folder.record.read() == record


def test_no_two_things_lie_in_one_place(tmp_path: Path) -> None:
    for folder in (StudyFolder(tmp_path), TrialFolder(tmp_path)):
        names = [name for name, value in vars(type(folder)).items() if isinstance(value, property)]
        places = [getattr(folder, name) for name in names]
        assert len({getattr(place, "path", place) for place in places}) == len(names) > 3
    assert StudyFolder(tmp_path).trial("a").path.parent == StudyFolder(tmp_path).trials


def test_a_record_of_another_version_is_not_taken_for_none(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path)
    folder.record.path.write_text('{"state": "finished", "mood": "good"}')
    with pytest.raises(InputError, match=r"record\.json: was not written by this version \(TrialRecord has no mood\)"):
        folder.record.read()
    folder.record.path.write_text('{"state": "fini')  # a disk that lost its end
    assert folder.record.read() is None
