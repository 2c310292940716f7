"""How many trials a cluster holds, also one that grows."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from raydaa.accelerators import name_there
from raydaa.cluster import Resources
from raydaa.errors import InputError
from raydaa.pipeline import checks, responses
from raydaa.pipeline.checks import check_accelerator, check_room
from raydaa.pipeline.context import Context
from raydaa.pipeline.token_budget import lower_tokens
from raydaa.progress import Progress
from raydaa.store.records import BudgetRecord
from raydaa.study import Study
from tests.studies import micro


def context(resources: Resources, **scaling: Any) -> Context:
    return Context(Study.from_tree(micro(scaling=scaling)), Progress(1), lambda: resources)


def test_this_machine_holds_what_it_has_cores_for() -> None:
    assert context(Resources(4, 0, local=True)).resolved.slots == 4
    assert context(Resources(4, 0, local=True), concurrent_trials=9).resolved.slots == 4
    assert context(Resources(4, 0, local=True), workers=2).resolved.slots == 2


def test_a_cluster_that_grows_holds_what_the_study_asks_for() -> None:
    """Its GPU workers are started by the trials that wait for them."""
    empty = Resources(0, 0, local=False)
    made = context(empty, concurrent_trials=3, accelerator="A100-80G")
    assert made.resolved.slots == 3
    assert made.workers.gpus == 1.0
    check_room(made)


@pytest.mark.parametrize(("local", "remedy"), [(True, False), (False, True)])
def test_too_little_room_is_refused(local: bool, remedy: bool) -> None:
    with pytest.raises(InputError, match=r"scaling\.workers: a trial asks for 4 x 1 CPUs; the cluster has 2") as caught:
        check_room(context(Resources(2, 0, local=local), workers=4))
    assert ("say how many trials: scaling.concurrent_trials" in str(caught.value)) == remedy


A100 = ("A100",)
BOX = (96.0, 8.0)  # CPUs and GPUs of a node


def on_boxes(*nodes: tuple[float, float], **scaling: Any) -> Context:
    cpus, gpus = (int(sum(side)) for side in zip(*nodes, strict=True))
    return context(Resources(cpus, gpus, local=False, accelerators=A100, nodes=nodes), gpus_per_worker=1, **scaling)


@pytest.mark.parametrize(
    ("nodes", "workers", "together", "room"),
    [
        ([BOX], 8, True, 1),
        ([BOX, BOX], 8, True, 2),
        ([(96.0, 6.0)] * 2, 4, True, 2),  # a third would lie across both
        ([(96.0, 8.0), (4.0, 0.0)], 4, True, 2),
        ([BOX, BOX], 16, False, 1),  # no node holds so many
        ([(8.0, 1.0)] * 4, 1, True, 4),
    ],
)
def test_a_group_stays_on_one_machine_where_one_holds_it(
    nodes: list[tuple[float, float]], workers: int, together: bool, room: int
) -> None:
    made = on_boxes(*nodes, workers=workers)
    assert made.workers.on_one_node is together
    assert made.resolved.slots == room


def test_an_accelerator_is_found_under_rays_name_for_it() -> None:
    assert on_boxes(BOX, accelerator="A100-80G").workers.accelerator == "A100"
    assert on_boxes(BOX, accelerator="A100").workers.accelerator == "A100"
    assert context(Resources(0, 0, local=False), accelerator="A100-80G").workers.accelerator == "A100-80G"
    for wanted, there, name in (
        ("A100-80G", ("A100-40G", "A100-80G"), "A100-80G"),
        ("A100", ("A100-40G", "L4"), "A100-40G"),
        ("A100-80G", ("A100-40G",), None),
        ("H100", ("A100", "H200"), None),
    ):
        assert name_there(wanted, there) == name


def test_another_accelerator_is_one_line() -> None:
    with pytest.raises(InputError) as caught:
        check_accelerator(on_boxes(BOX, accelerator="H100"))
    assert str(caught.value) == "scaling.accelerator: 'H100'; the cluster has A100"
    check_accelerator(on_boxes(BOX, accelerator="H100", concurrent_trials=2))  # such nodes may come
    check_accelerator(on_boxes(BOX, accelerator="A100"))


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[dict[str, Any]]]:
    """Has every process of the cluster answer the same; what the processes were asked to have."""

    def answer(value: Any) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def remote(**options: Any) -> Any:
            asked.append(options)
            return lambda function: SimpleNamespace(remote=lambda *_: value)

        monkeypatch.setattr(ray, "remote", remote)
        monkeypatch.setattr(ray, "get", lambda given: given)
        return asked

    return answer


Answered = Callable[[Any], list[dict[str, Any]]]


@pytest.mark.parametrize(("gigabytes", "refused"), [(42.4, True), (85.0, False)])
def test_a_card_is_as_large_as_the_study_says(answered: Answered, gigabytes: float, refused: bool) -> None:
    """Ray calls both sizes of an A100 alike: a process that is given one looks."""
    asked = answered(int(gigabytes * 1e9))
    made = on_boxes(BOX, accelerator="A100-80G")
    if refused:
        with pytest.raises(InputError, match=r"^scaling.accelerator: 'A100-80G'; the cluster's A100 has 42 GB$"):
            check_accelerator(made)
    else:
        check_accelerator(made)
    assert asked == [{"num_cpus": 0, "num_gpus": 1, "accelerator_type": "A100"}]


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (["flash_attn", "vllm"], None),
        (["flash_attn"], "generation.engine: vllm is not installed; pip install 'raydaa[gpu]' on the nodes"),
        (
            ["vllm"],
            "training.attention: flash_attn is not installed; use auto, or pip install --no-build-isolation "
            "'raydaa[flash-attn]' on the nodes",
        ),
    ],
)
def test_what_a_study_imports_is_looked_for_where_it_runs(
    answered: Answered, monkeypatch: pytest.MonkeyPatch, there: list[str], told: str | None
) -> None:
    """A head may have none of it."""
    monkeypatch.setattr(checks, "engine_of", lambda _: responses.VLLM)
    asked = answered(there)
    tree = micro(scaling={"gpus_per_worker": 1, "workers": 8, "accelerator": "A100"})
    tree["training"] |= {"attention": "flash_attention_2"}
    resources = Resources(96, 8, local=False, accelerators=A100, nodes=(BOX,))
    made = Context(Study.from_tree(tree), Progress(1), lambda: resources)
    if told is None:
        checks.check_installed(made)
    else:
        with pytest.raises(InputError) as caught:
            checks.check_installed(made)
        assert str(caught.value) == told
    assert asked == [{"num_cpus": 1, "num_gpus": 1.0, "accelerator_type": "A100"}]


@pytest.mark.parametrize(
    ("gpus", "workers", "told"),
    [
        (0.5, 2, "gpus_per_worker: 0.5: workers of one group can't share a GPU; use whole ones"),
        (1.5, 1, "gpus_per_worker: 1.5 is neither a share of one GPU nor several whole ones"),
        (0.5, 1, None),
        (2, 4, None),
    ],
)
def test_shares_of_gpus(gpus: float, workers: int, told: str | None) -> None:
    if told is None:
        assert on_boxes(BOX, workers=workers).workers.gpus == 1
        context(Resources(8, 8, local=False), gpus_per_worker=gpus, workers=workers)
        return
    with pytest.raises(InputError) as caught:
        context(Resources(8, 8, local=False), gpus_per_worker=gpus, workers=workers)
    assert told in str(caught.value)


def test_a_budget_that_was_too_much_for_a_trial_is_lowered(tmp_path: Path) -> None:
    study = Study.from_tree(micro(), {"storage.study": str(tmp_path)})
    made = Context(study, Progress(1), lambda: Resources(8, 8, local=False))
    lower_tokens(made, 512)  # nothing was measured
    assert not made.at.budget.exists()
    made.at.budget.write(BudgetRecord("k", 8192))
    for tokens in (None, 4096, 16384):
        lower_tokens(made, tokens)
    assert made.at.budget.read() == BudgetRecord("k", 4096)
