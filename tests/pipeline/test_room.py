"""How many trials a cluster holds, also one that grows."""

from pathlib import Path
from typing import Any

import pytest

from raydaa.cluster import Resources
from raydaa.pipeline.checks import check_room
from raydaa.pipeline.context import Context, Prepared, Start
from raydaa.progress import Progress
from raydaa.settings_file import InputError
from raydaa.study import Study
from tests.studies import micro


def context(resources: Resources, **scaling: Any) -> Context:
    prepared = Prepared(Start("base", Path(), ""), Path(), {}, {}, {})
    return Context(Study.from_tree(micro(scaling=scaling)), Progress(1), resources, prepared)


def test_this_machine_holds_what_it_has_cores_for() -> None:
    assert context(Resources(4, 0, local=True)).concurrent_trials == 4
    assert context(Resources(4, 0, local=True), concurrent_trials=9).concurrent_trials == 4
    assert context(Resources(4, 0, local=True), workers=2).concurrent_trials == 2


def test_a_cluster_that_grows_holds_what_the_study_asks_for() -> None:
    """Its GPU workers are started by the trials that wait for them."""
    empty = Resources(0, 0, local=False)
    made = context(empty, concurrent_trials=3, accelerator="A100-80G")
    assert made.concurrent_trials == 3
    assert made.workers.gpus == 1.0
    check_room(made)


@pytest.mark.parametrize(("local", "remedy"), [(True, False), (False, True)])
def test_too_little_room_is_refused(local: bool, remedy: bool) -> None:
    with pytest.raises(InputError, match=r"scaling\.workers: a trial asks for 4 x 1 CPUs; the cluster has 2") as caught:
        check_room(context(Resources(2, 0, local=local), workers=4))
    assert ("say how many trials: scaling.concurrent_trials" in str(caught.value)) == remedy
