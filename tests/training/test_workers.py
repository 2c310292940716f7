"""Ray Train workers and DeepSpeed: the same losses as one plain process, step by step.

One group of two workers walks through all the runs: a group of its own would cost each of them the imports again.
"""

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydaa.algorithms.catalog import register
from raydaa.algorithms.logprobs import PairLogps
from raydaa.algorithms.method import Method
from raydaa.data.batches import split_work
from raydaa.pipeline.stages.score import ScoreTask
from raydaa.settings.training import LoraSettings
from raydaa.store.artifacts import read_json, write_json
from raydaa.store.output import Output
from raydaa.store.study_folder import TrialFolder
from raydaa.store.tables import GENERATIONS, PAIRS, read, write
from raydaa.training import build, checkpoint, launch
from raydaa.training.collectives import rank
from raydaa.training.engine import make_engine
from raydaa.training.launch import ReferenceTask, TrainTask, train_part
from raydaa.training.model import load_model
from raydaa.training.reference import join_shares
from raydaa.training.run import Run
from raydaa.training.spec import RunSpec
from raydaa.training.workers import Workers, on_workers
from tests.models import save_llama
from tests.training.runs import SCORING, changed, run_spec, write_references

pytestmark = pytest.mark.slow

BATCH, BUDGET = 4, 96
APART = replace(SCORING, apart=True)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, pocket_model: Path) -> RunSpec:
    """dpo over pairs of very different lengths, with the reference log-probabilities of its start."""
    folder = tmp_path_factory.mktemp("uneven")
    model = wide(pocket_model, folder / "model")
    rng = np.random.default_rng(0)

    def tokens(size: int) -> list[int]:
        return [*map(int, rng.integers(4, 70, size)), 2]

    lengths = [90, 4, 5, 6] * 6  # a batch has about one long pair: one worker gets it, the other has less to do
    rows = [
        {"pair_id": i, "prompt_tokens": [1, *tokens(3)], "chosen_tokens": tokens(n), "rejected_tokens": tokens(n // 2)}
        for i, n in enumerate(lengths)
    ]
    tables = {"train": str(folder / "train.parquet"), "validation": str(folder / "validation.parquet")}
    write(folder / "train.parquet", rows, PAIRS)
    write(folder / "validation.parquet", rows[:7], PAIRS)
    return run_spec(
        start=str(model),
        **tables,
        **write_references(model, tables, folder),
        learning_rate=3e-4,
        batch_size=BATCH,
        epochs=2,
        warmup_ratio=0.1,
        weight_decay=0.01,
        tokens_per_microbatch=BUDGET,
        head_chunk=16,
        checkpoint_every=100,
    )


def wide(tokenizer: Path, folder: Path) -> Path:
    """A small Llama whose output matrix is large enough for ZeRO 3 to share it out, and to be called chunk by chunk."""
    shutil.copytree(tokenizer, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    return save_llama(folder, vocab_size=2048, hidden=64, layers=2, positions=256)


@dataclass(frozen=True, kw_only=True)
class Hinge(Method):
    """A loss of one's own: `rso` by another name."""

    beta: float
    ranking, score = "pairwise", "ratio"

    def per_pair(self, chosen: torch.Tensor, rejected: torch.Tensor, logps: PairLogps) -> torch.Tensor:
        return (1 - self.beta * (chosen - rejected)).clamp(min=0)


def two_workers(folder: Path) -> Workers:
    threads = {"cpus": 1, "gpus": 0, "threads": 1}
    return Workers(2, accelerator=None, storage=str(folder / "ray"), max_failures=0, methods=(Hinge,), **threads)


def variants(spec: RunSpec) -> dict[str, RunSpec]:
    """The runs of two workers, by name."""
    deepspeed = changed(spec, engine="deepspeed")
    stages = {f"deepspeed-{stage}": changed(deepspeed, zero_stage=stage) for stage in (0, 2, 3)}
    lora = LoraSettings(rank=4, alpha=8.0)
    saving = {"gradient_checkpointing": True, "cpu_offload": True, "lora": lora, "learning_rate": 3e-3}
    return {
        "torch": spec,
        **stages,
        "saving": changed(stages["deepspeed-2"], **saving),
        "saving-3": changed(stages["deepspeed-3"], **saving),
        "kto": changed(stages["deepspeed-2"], method="kto", parameters={"beta": 0.5}, learning_rate=3e-3),
        "bf16": changed(deepspeed, zero_stage=1, precision="bf16"),
        "own": changed(spec, method=register(Hinge), parameters={"beta": 0.5}),
    }


@dataclass(frozen=True)
class Walk:
    """Every part of every run, and shares of reference log-probabilities, one after another on each worker."""

    parts: list[TrainTask]
    scored: list[ReferenceTask]
    responses: ScoreTask
    saved: Path
    traced: RunSpec
    traces: Path

    def __call__(self) -> None:
        for part in self.parts:
            part()
            if part.until:
                shutil.copy(TrialFolder(part.folder).metrics, part.folder / "until.jsonl")
        for reference in self.scored:
            reference()
        self.responses()
        checkpoint.save(self.saved, 1, fill_at_different_speeds)
        write_json(self.traces / f"trace-{rank()}.json", traced(self.traced))


def fill_at_different_speeds(folder: Path) -> None:
    """The first worker's files of passing names are there when the second has written its last, and go one by one."""
    passing = [folder / f".passing-{number}" for number in range(500)]
    if rank() == 0:
        for path in passing:
            path.touch()
        write_json(folder / "run.json", {"step": 1})
        time.sleep(0.005)
        for path in reversed(passing):
            path.unlink()
        return
    while not (folder / "run.json").exists():
        time.sleep(0.001)


def traced(spec: RunSpec) -> dict[str, Any]:
    """Of ZeRO 3, step by step: whether it knows the order of all calls by now, how often the head was gathered, and
    how many micro-batches there were; in which type it sums gradients; and the model as DeepSpeed was given it."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator as Coordinator

    given = list[Any]()

    def note_model(policy: Any, spec: RunSpec) -> Any:
        given.extend([sum(p.numel() for p in policy.parameters()), {n: b.tolist() for n, b in policy.named_buffers()}])
        return make_engine(policy, spec)

    build.make_engine = note_model
    try:
        run = Run(spec)
    finally:
        build.make_engine = make_engine
    head, gather = run.policy.model.lm_head.weight, "_PartitionedParameterCoordinator__all_gather_params"
    gathered, microbatches, before = [0], [0], getattr(Coordinator, gather)

    def count(self: Any, parameters: Any, forward: bool) -> Any:
        parameters = set(parameters)
        gathered[0] += any(p is head and p.ds_status == ZeroParamStatus.NOT_AVAILABLE for p in parameters)
        return before(self, parameters, forward)

    backward = run.engine.backward

    def note(loss: torch.Tensor) -> None:
        microbatches[0] += 1
        backward(loss)

    setattr(Coordinator, gather, count)
    run.engine.backward = note
    found: list[tuple[bool, int, int]] = []
    try:
        optimizer = run.engine.engine.optimizer
        while run.step < 6:
            run.train_step()
            complete = optimizer.parameter_offload.get_param_coordinator().is_complete_trace()
            found.append((complete, gathered[0], microbatches[0]))
        return {"steps": found, "sums": str(optimizer.gradient_accumulation_dtype), "given": given}
    finally:
        setattr(Coordinator, gather, before)
        run.close()


@pytest.fixture(scope="module")
def walked(own_ray: None, spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of `variants`; ``torch-parts``, ``bf16-parts`` and ``deepspeed-2-parts`` stopped after step 5,
    of which the first two went on; ``scored…`` with reference log-probabilities, ``scored-apart`` by a model that was
    spread over both workers, as responses were in ``responses``; ``traced`` under ZeRO 3 in bf16."""
    folder = tmp_path_factory.mktemp("walked")
    runs = variants(spec)
    parts = [TrainTask(run, folder / name, None) for name, run in runs.items()]
    parts += [TrainTask(runs[name], folder / f"{name}-parts", 5) for name in ("torch", "bf16", "deepspeed-2")]
    parts += [TrainTask(runs[name], folder / f"{name}-parts", None) for name in ("torch", "bf16")]
    scored = [
        ReferenceTask(spec.start, tables_of(spec), folder / name, scoring, mismatch)
        for name, scoring, mismatch in [
            ("scored", SCORING, False),
            ("scored-mismatched", SCORING, True),
            ("scored-apart", APART, False),
        ]
    ]
    traces = folder / "traced"
    for place in [*(part.folder for part in parts), *(task.folder for task in scored), traces]:
        place.mkdir(exist_ok=True)
    said = replace(responses(spec, folder / "responses"), scoring=APART)
    walk = Walk(parts, scored, said, folder / "slow", changed(runs["bf16"], zero_stage=3), traces)
    on_workers(walk, two_workers(folder))
    return folder


def responses(spec: RunSpec, folder: Path) -> ScoreTask:
    """What a model may have said to the prompts of the pairs, to be scored."""
    folder.mkdir(exist_ok=True)
    pairs = read(Path(spec.data.train)).to_pylist()
    said = [{"prompt_id": str(pair["pair_id"]), "tokens": pair["chosen_tokens"]} for pair in pairs]
    GENERATIONS.write(folder, said)
    moved = load_model(spec.start)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(1.1)
    moved.save_pretrained(folder / "moved")
    return ScoreTask(str(folder), spec.data.train, Output(folder, {}), str(folder / "moved"), spec.start, SCORING)


def tables_of(spec: RunSpec) -> dict[str, str]:
    return {"train": spec.data.train, "validation": str(spec.data.validation)}


def losses(folder: Path) -> list[float]:
    """All losses of a run, then those on held-out pairs."""
    metrics = TrialFolder(folder).read_metrics()
    assert [m["step"] for m in metrics] == list(range(1, 13))
    return [m["loss"] for m in metrics] + [m["validation/loss"] for m in metrics if "validation/loss" in m]


def alone(spec: RunSpec, folder: Path) -> list[float]:
    """The losses of this process alone with the plain torch engine, whose model lies in ``folder`` then."""
    plain = changed(spec, engine="torch", zero_stage=0, gradient_checkpointing=False, cpu_offload=False)
    train_part(plain, folder, None)
    return losses(folder)


@pytest.fixture(scope="module")
def plain(spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return alone(spec, tmp_path_factory.mktemp("plain"))


def test_the_two_workers_have_unequal_work(spec: RunSpec) -> None:
    lengths = np.array([90 + 45 + 6, 20, 20, 20])
    order = split_work(lengths, 2, BUDGET)
    assert [sum(bool(batch) for batch in plan) for plan in order] == [2, 1]
    assert len(order[0]) == len(order[1])


@pytest.mark.parametrize("name", ["torch", "deepspeed-0", "deepspeed-2", "deepspeed-3"])
def test_two_workers_give_the_losses_of_one(plain: list[float], walked: Path, name: str) -> None:
    assert losses(walked / name) == pytest.approx(plain, abs=1e-4)


def test_adapters_checkpointed_layers_and_offload_under_deepspeed(spec: RunSpec, walked: Path, tmp_path: Path) -> None:
    """All of what saves memory at once, against one plain process with adapters; and a whole model comes out."""
    expected = alone(variants(spec)["saving"], tmp_path)
    for place in ("saving", "saving-3"):
        found = losses(walked / place)
        assert found == pytest.approx(expected, abs=1e-4)
        assert found[11] < found[0]
        one, other = (load_model(folder / "model").state_dict() for folder in (walked / place, tmp_path))
        for name, weight in one.items():
            torch.testing.assert_close(weight, other[name], rtol=1e-3, atol=1e-4)


def test_two_workers_share_ktos_kl(spec: RunSpec, walked: Path, tmp_path: Path) -> None:
    """Each worker sees half of a batch; the loss of a pair depends on all of it."""
    assert losses(walked / "kto") == pytest.approx(alone(variants(spec)["kto"], tmp_path), abs=1e-4)


@pytest.mark.parametrize("name", ["torch", "bf16", "deepspeed-2"])
def test_a_run_goes_on_exactly_from_a_checkpoint(spec: RunSpec, walked: Path, tmp_path: Path, name: str) -> None:
    """Order of the data, schedule, optimizer and random numbers: every later loss is the uninterrupted one, in the
    same processes or in another group."""
    parts = walked / f"{name}-parts"
    if name == "deepspeed-2":
        launch.train(variants(spec)[name], parts, two_workers(tmp_path))
    assert losses(parts) == pytest.approx(losses(walked / name), abs=1e-6)
    # What was trained before the stop was not trained again: times differ from run to run.
    before, after = (path.read_text().splitlines() for path in (parts / "until.jsonl", TrialFolder(parts).metrics))
    assert len(before) == 5
    assert after[:5] == before


def test_a_loss_of_ones_own_reaches_every_worker(spec: RunSpec, walked: Path, tmp_path: Path) -> None:
    rso = changed(spec, method="rso", parameters={"beta": 0.5})
    assert losses(walked / "own") == pytest.approx(alone(rso, tmp_path), abs=1e-4)


def test_bf16_trains(plain: list[float], walked: Path) -> None:
    assert losses(walked / "bf16") == pytest.approx(plain, abs=0.05)
    assert losses(walked / "bf16") != pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("worker", [0, 1])
def test_zero_3_knows_the_order_of_calls(walked: Path, worker: int) -> None:
    """However many scored tokens a micro-batch has: then weights are fetched ahead, and the head once a micro-batch."""
    found = read_json(walked / "traced" / f"trace-{worker}.json")
    complete, gathered, microbatches = zip(*found["steps"], strict=True)
    assert all(complete[2:])
    assert gathered[-1] - gathered[2] <= microbatches[-1] - microbatches[2]
    assert found["sums"] == "torch.float32"


@pytest.mark.parametrize("worker", [0, 1])
def test_zero_3_is_given_no_whole_weights_and_the_models_own_buffers(spec: RunSpec, walked: Path, worker: int) -> None:
    """Not rounded to bf16, as frequencies of rotary positions would be: far into a text they would turn elsewhere."""
    elements, buffers = read_json(walked / "traced" / f"trace-{worker}.json")["given"]
    assert elements == 0
    assert buffers == {f"model.{name}": buffer.tolist() for name, buffer in load_model(spec.start).named_buffers()}
    assert buffers


def test_responses_are_scored_by_a_model_that_no_worker_holds_whole(
    spec: RunSpec, walked: Path, tmp_path: Path
) -> None:
    responses(spec, tmp_path)()
    places = [Output(folder, {}).folder for folder in (walked / "responses", tmp_path)]
    mine, theirs = (read(place / "scores.parquet") for place in places)
    assert mine["prompt_id"].equals(theirs["prompt_id"])
    for name in ("logp", "start_logp", "kl"):
        assert mine[name].to_pylist() == pytest.approx(theirs[name].to_pylist(), abs=1e-4), name
    assert min(mine["kl"].to_pylist()) > 0.001


@pytest.mark.parametrize("suffix", ["", "-mismatched", "-apart"])
def test_reference_is_the_same_from_two_workers(spec: RunSpec, walked: Path, suffix: str) -> None:
    tables, shares = tables_of(spec), walked / f"scored{suffix}"
    join_shares(shares, tables, 2)
    folder = Path(str(spec.data.mismatched if suffix == "-mismatched" else spec.data.reference))
    for name in tables:
        mine, theirs = read(shares / f"{name}.parquet"), read(folder / f"{name}.parquet")
        assert mine["pair_id"].equals(theirs["pair_id"])
        for column in ("chosen_logp", "rejected_logp"):
            assert mine[column].to_pylist() == pytest.approx(theirs[column].to_pylist(), abs=1e-4)
