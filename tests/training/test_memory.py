"""Fewer activations, fewer trained weights, smaller micro-batches after an error, and budgets from measurements."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from raydaa.settings.training import LoraSettings
from raydaa.store.artifacts import read_json, write_json
from raydaa.store.study_folder import TrialFolder
from raydaa.training.lora import add_adapters, merged
from raydaa.training.model import Policy, load_model
from raydaa.training.run import Run
from raydaa.training.spec import RunSpec
from raydaa.training.token_budget import fitted, is_out_of_memory, random_batch
from raydaa.training.workers import Workers
from raydaa.tuning.trial import ASSIGNMENT, KEY, Assignment, OneWorkerTrial
from tests.training.runs import Make, changed, losses

LORA = LoraSettings(rank=4, alpha=8.0)


def test_checkpointed_layers_run_twice_and_change_nothing(make: Make) -> None:
    counts = []
    for wanted in (False, True):
        run, calls = Run(make(gradient_checkpointing=wanted)), [0]

        def count(*_: object, calls: list[int] = calls) -> None:
            calls[0] += 1

        run.policy.model.model.layers[0].self_attn.register_forward_hook(count)
        run.train_step()
        counts.append(calls[0])
    assert counts[1] == 2 * counts[0]
    assert losses(make(gradient_checkpointing=True), 4) == pytest.approx(losses(make(), 4), abs=1e-6)


def test_lora_starts_at_the_reference_trains_adapters_only_and_is_merged(make: Make, tmp_path: Path) -> None:
    spec = make(lora=LORA, epochs=6, learning_rate=1e-2)
    run = Run(spec)
    first = run.train_step()
    assert first["loss"] == pytest.approx(0.6931472, abs=1e-5)
    trained = {name for name, weight in run.policy.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    while run.step < run.total_steps:
        last = run.train_step()
    assert last["loss"] < 0.66
    run.export(tmp_path / "model")
    # What is handed over has the names of the start, and answers as the model with adapters does.
    start, exported = load_model(spec.start), load_model(tmp_path / "model")
    assert list(exported.state_dict()) == list(start.state_dict())
    batch = run.train.rows.pack([0, 1, 2])
    with torch.no_grad():
        torch.testing.assert_close(Policy(exported).eval()(batch), run.policy.eval()(batch), rtol=1e-5, atol=1e-4)
    moved = [
        name for name, weight in start.state_dict().items() if not torch.equal(weight, exported.state_dict()[name])
    ]
    assert moved
    assert all("proj" in name for name in moved)


def test_in_bf16_adapters_are_float32_beside_frozen_weights_that_are_not(make: Make, tmp_path: Path) -> None:
    run, exact = Run(make(lora=LORA, precision="bf16")), Run(make(lora=LORA))
    kinds = {(weight.requires_grad, weight.dtype) for weight in run.policy.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    for _ in range(3):
        assert run.train_step()["loss"] == pytest.approx(exact.train_step()["loss"], abs=0.01)
    run.save(tmp_path / "checkpoint")
    again = Run(make(lora=LORA, precision="bf16"))
    assert again.load(tmp_path / "checkpoint")
    assert again.train_step()["loss"] == run.train_step()["loss"]


def test_lora_resumes_exactly(make: Make, tmp_path: Path) -> None:
    spec = make(lora=LORA)
    whole = losses(spec)
    run = Run(spec)
    for _ in range(2):
        run.train_step()
    run.save(tmp_path / "checkpoint")
    again = Run(spec)
    assert again.load(tmp_path / "checkpoint")
    assert [again.train_step()["loss"] for _ in range(2, again.total_steps)] == pytest.approx(whole[2:], abs=1e-6)


def test_adapters_only_go_onto_linear_layers() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=64))
    with pytest.raises(ValueError, match=r"c_attn is a Conv1D; only linear layers take adapters"):
        add_adapters(model, LoraSettings(rank=2, alpha=2.0, targets=("c_attn",)))


def test_merging_is_the_formula() -> None:
    weight, down, up = torch.randn(5, 3), torch.randn(2, 3), torch.randn(5, 2)
    state = {"a.base_layer.weight": weight, "a.lora_A.default.weight": down, "a.lora_B.default.weight": up}
    state["a.base_layer.bias"] = torch.ones(5)
    plain = merged(state, LoraSettings(rank=2, alpha=3.0))
    assert sorted(plain) == ["a.bias", "a.weight"]
    torch.testing.assert_close(plain["a.weight"], weight + 1.5 * up @ down)


@pytest.fixture
def small_memory() -> Iterator[list[int]]:
    """A machine whose memory holds 100 tokens at a time: the embedding of more raises what torch would."""
    tried: list[int] = []

    def check(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, nn.Embedding):
            tried.append(inputs[0].numel())
            if inputs[0].numel() > limit[0]:
                raise torch.OutOfMemoryError(f"{inputs[0].numel()} tokens")

    limit = [100]
    handle = nn.modules.module.register_module_forward_pre_hook(check)
    yield limit
    handle.remove()
    assert tried


def trial_of(spec: RunSpec, folder: Path) -> OneWorkerTrial:
    folder.mkdir()
    write_json(folder / "settings.json", spec.to_json())
    return trial_in(folder)


def trial_in(folder: Path) -> OneWorkerTrial:
    """The trial in a folder, as Tune makes it."""
    workers = Workers(1, 1.0, 0.0, None, 1, str(folder), 0)
    return OneWorkerTrial({KEY: "x", ASSIGNMENT: Assignment("x", TrialFolder(folder), workers, 0, 0)})


def finish(trial: OneWorkerTrial) -> dict[str, object]:
    result: dict[str, object] = {}
    while not result.get("done"):
        result = trial.step()
    return result


def test_out_of_memory_halves_the_budget_once(make: Make, tmp_path: Path, small_memory: list[int]) -> None:
    """The trial goes on from its checkpoint in smaller micro-batches, with the losses it would have had."""
    small_memory[0] = 10**6
    spec = make(tokens_per_microbatch=160)
    expected = losses(spec)
    small_memory[0] = 100
    folder = tmp_path / "trial"
    finish(trial_of(spec, folder))
    assert read_json(folder / "record.json")["state"] == "finished"
    recipe = RunSpec.from_json(read_json(folder / "settings.json")).recipe
    assert (recipe.tokens, recipe.halved) == (80, True)
    logged = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert logged == pytest.approx(expected, abs=1e-5)


def test_out_of_memory_twice_is_a_failed_trial(make: Make, tmp_path: Path, small_memory: list[int]) -> None:
    small_memory[0] = 100
    folder = tmp_path / "trial"
    result = finish(trial_of(make(tokens_per_microbatch=4096), folder))
    assert result["failed"] == "out of memory, also with 2048 tokens per micro-batch"
    record = read_json(folder / "record.json")
    assert (record["state"], record["retry"]) == ("failed", False)


def test_other_errors_are_not_taken_for_it(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    trial = trial_of(changed(make(), train=str(tmp_path / "none.parquet")), folder)
    with pytest.raises(FileNotFoundError):
        trial.step()
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("NCCL error: unhandled cuda error. Last error: Cuda failure 2 'out of memory'"), True),
        (RuntimeError("ray::_train()\n  File ...\ntorch.OutOfMemoryError: CUDA out of memory."), True),
        (RuntimeError("ray::_train()\n  File ...\nMemoryError"), True),
        # Ray ends a process because its machine runs low: smaller micro-batches would be no remedy.
        (ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory."), False),
        (RuntimeError("... ray.exceptions.OutOfMemoryError: the node ran out of memory"), False),
        (RuntimeError("OutOfMemoryErrors were not seen"), False),
    ],
)
def test_signs_of_a_micro_batch_that_is_too_large(error: Exception, is_one: bool) -> None:
    assert is_out_of_memory(error) is is_one


def test_a_deepspeed_trial_runs_in_an_actor_of_its_own(make: Make, tmp_path: Path) -> None:
    """Outside Ray Train nobody else tells DeepSpeed that it is alone. It goes on from its checkpoint at the rung."""
    script = """
import json, sys
from pathlib import Path
from tests.training.test_memory import trial_in
folder = Path(sys.argv[1])
trial = trial_in(folder)
assert not trial.step()["done"]
trial.cleanup()
trial, result = trial_in(folder), {}
while not result.get("done"):
    result = trial.step()
trial.cleanup()
"""
    spec, folder = make(engine="deepspeed", zero_stage=2), tmp_path / "trial"
    folder.mkdir()
    write_json(folder / "settings.json", spec.to_json())
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "MASTER_PORT")}
    run = [sys.executable, "-c", script, str(folder)]
    subprocess.run(run, env={**clean, "DS_ACCELERATOR": "cpu"}, check=True, capture_output=True, timeout=300)
    logged = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert logged == pytest.approx(losses(make()), abs=1e-4)


def test_a_budget_is_the_line_through_two_measurements() -> None:
    """1 GB fixed and 1 MB a token: 8.5 GB hold 7,500 tokens, cut to a multiple of 256."""
    peaks = (10**9 + 1000 * 10**6, 10**9 + 2000 * 10**6)
    assert fitted((1000, 2000), peaks, 8_500_000_000) == 7424
    assert fitted((1000, 2000), peaks, 10**9) == 1000  # never less than the longest row
    assert fitted((1000, 2000), (5, 5), 10**9) == 2000


def test_measurements_are_made_on_rows_as_they_come() -> None:
    batch = random_batch(50, 25, 10)
    assert len(batch.tokens) == 25
    assert [block.end - block.start for block in batch.blocks] == [10, 10, 5]
    assert len(batch.targets) == 13
