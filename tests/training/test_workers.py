"""Ray Train workers and DeepSpeed: the same losses as one plain process, step by step."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from raydaa.data.packing import split_work
from raydaa.records import PAIRS, read, write
from raydaa.training import launch
from raydaa.training.launch import Workers
from raydaa.training.model import load_model
from raydaa.training.spec import RunSpec
from raydaa.trial_folder import read_metrics
from tests.models import save_llama
from tests.training.runs import SCORING, run_spec, write_references

pytestmark = pytest.mark.slow

BATCH, BUDGET = 4, 96


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


def workers(folder: Path, count: int) -> Workers:
    return Workers(count, cpus=1, gpus=0, accelerator=None, threads=1, storage=str(folder / "ray"), max_failures=0)


def losses(spec: RunSpec, folder: Path, count: int) -> list[float]:
    folder.mkdir()
    launch.train(spec, folder, workers(folder, count))
    metrics = read_metrics(folder)
    assert len(metrics) == 12
    return [m["loss"] for m in metrics] + [m["validation/loss"] for m in metrics if "validation/loss" in m]


Whole = Callable[[str, int, int], list[float]]


@pytest.fixture(scope="module")
def whole(own_ray: None, spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The losses of an uninterrupted run by engine, ZeRO stage and workers; each is trained once."""

    @cache
    def train(engine: str, stage: int, count: int) -> list[float]:
        folder = tmp_path_factory.mktemp("whole") / "run"
        return losses(replace(spec, engine=engine, zero_stage=stage), folder, count)

    return train


@pytest.fixture(scope="module")
def alone(whole: Whole) -> list[float]:
    """The losses of one worker with the plain torch engine."""
    return whole("torch", 0, 1)


def test_the_two_workers_have_unequal_work(spec: RunSpec) -> None:
    lengths = np.array([90 + 45 + 6, 20, 20, 20])
    order = split_work(lengths, 2, BUDGET)
    assert [sum(bool(batch) for batch in plan) for plan in order] == [2, 1]
    assert len(order[0]) == len(order[1])


@pytest.mark.parametrize(("engine", "stage"), [("torch", 0), ("deepspeed", 0), ("deepspeed", 2), ("deepspeed", 3)])
def test_two_workers_give_the_losses_of_one(alone: list[float], whole: Whole, engine: str, stage: int) -> None:
    assert whole(engine, stage, 2) == pytest.approx(alone, abs=1e-4)


def test_adapters_checkpointed_layers_and_offload_under_deepspeed(own_ray: None, spec: RunSpec, tmp_path: Path) -> None:
    """All of what saves memory at once, against one plain process with adapters; and a whole model comes out."""
    lora = replace(spec, lora={"rank": 4, "alpha": 8.0, "targets": ["all-linear"]}, learning_rate=3e-3)
    saving = replace(lora, engine="deepspeed", zero_stage=2, gradient_checkpointing=True, cpu_offload=True)
    found = losses(saving, tmp_path / "saving", 2)
    assert found == pytest.approx(losses(lora, tmp_path / "plain", 1), abs=1e-4)
    assert found[11] < found[0]
    one, other = (load_model(tmp_path / name / "model").state_dict() for name in ("saving", "plain"))
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=1e-3, atol=1e-4)


def test_two_workers_share_ktos_kl(own_ray: None, spec: RunSpec, tmp_path: Path) -> None:
    """Each worker sees half of a batch; the loss of a pair depends on all of it."""
    kto = replace(spec, method="kto", parameters={"beta": 0.5}, learning_rate=3e-3)
    alone = losses(kto, tmp_path / "alone", 1)
    sharded = replace(kto, engine="deepspeed", zero_stage=2)
    assert losses(sharded, tmp_path / "run", 2) == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize(("engine", "stage", "count"), [("torch", 0, 2), ("deepspeed", 2, 1), ("deepspeed", 2, 2)])
def test_a_run_goes_on_exactly_from_a_checkpoint(
    whole: Whole, spec: RunSpec, tmp_path: Path, engine: str, stage: int, count: int
) -> None:
    """Order of the data, schedule, optimizer and random numbers: every later loss is the uninterrupted one."""
    part = replace(spec, engine=engine, zero_stage=stage)
    folder = tmp_path / "parts"
    folder.mkdir()
    first, _ = launch.train(part, folder, workers(folder, count), until=5)
    assert first["step"] == 5
    launch.train(part, folder, workers(folder, count))
    again = [m["loss"] for m in read_metrics(folder)]
    assert again == pytest.approx(whole(engine, stage, count)[:12], abs=1e-6)


def test_bf16_trains(own_ray: None, spec: RunSpec, alone: list[float], tmp_path: Path) -> None:
    found = losses(replace(spec, engine="deepspeed", zero_stage=1, precision="bf16"), tmp_path / "run", 1)
    assert found == pytest.approx(alone, abs=0.05)


@pytest.mark.parametrize("mismatched", [False, True])
def test_reference_is_the_same_from_two_workers(own_ray: None, spec: RunSpec, tmp_path: Path, mismatched: bool) -> None:
    tables = {"train": spec.train, "validation": str(spec.validation)}
    launch.reference(spec.start, tables, tmp_path, {**SCORING, "mismatched": mismatched}, workers(tmp_path, 2))
    folder = Path(str(spec.mismatched if mismatched else spec.reference))
    for name in tables:
        mine, theirs = read(tmp_path / f"{name}.parquet"), read(folder / f"{name}.parquet")
        assert mine["pair_id"].equals(theirs["pair_id"])
        for column in ("chosen_logp", "rejected_logp"):
            assert mine[column].to_pylist() == pytest.approx(theirs[column].to_pylist(), abs=1e-4)
