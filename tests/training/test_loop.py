"""One run without Ray: steps, weighting, resuming."""

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydaa.data.packing import PairTable, pack_responses
from raydaa.pocket import world as pocket
from raydaa.settings.training import LoraSettings
from raydaa.store.study_folder import TrialFolder
from raydaa.store.tables import REFERENCE, read, write
from raydaa.training.loop import resume, rung_steps, train_until, validation_steps
from raydaa.training.model import Policy, load_model
from raydaa.training.run import NonFiniteLossError, Run
from raydaa.training.spec import RunSpec
from raydaa.training.start_weights import StartWeights
from raydaa.training.tokenizer import load_tokenizer
from tests.training.runs import PATHS, Make, at, changed, losses


def test_first_loss_is_ln2_and_training_lowers_it(make: Make) -> None:
    values = losses(make(epochs=3))
    assert values[0] == pytest.approx(math.log(2), abs=1e-5)
    assert sum(values[-3:]) / 3 < values[0] - 0.02


@pytest.mark.parametrize("budget", [1, 64, 4096])
def test_micro_batches_change_nothing(make: Make, budget: int) -> None:
    assert losses(make(tokens_per_microbatch=budget), 4) == pytest.approx(losses(make(), 4), abs=1e-5)


def test_sft_on_examples(make: Make) -> None:
    table = Path(make().data.train).with_name("sft.parquet")
    spec = make(train=str(table), method=None, parameters={}, validation=None, reference=None, epochs=3)
    values = losses(spec)
    assert values[0] == pytest.approx(math.log(len(pocket.vocabulary())), abs=0.4)
    assert values[-1] < values[0] - 0.3


def test_every_method_trains(make: Make) -> None:
    from raydaa.algorithms.losses import METHODS

    for name in METHODS:
        values = losses(make(method=name, parameters={} if name == "slic_hf" else {"beta": 0.5}), 2)
        assert all(math.isfinite(value) for value in values), name


@pytest.mark.parametrize(("method", "known"), [("dpo", True), ("orpo", False)])
def test_held_out_pairs_are_measured_against_the_start_by_all(make: Make, method: str, known: bool) -> None:
    run = Run(make(method=method, parameters={"beta": 0.5}))
    assert run.validate()["validation/preference_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert ("preference_loss" in run.train_step()) is known
    assert run.validate()["validation/preference_loss"] != pytest.approx(math.log(2), abs=1e-5)


def kl_by_hand(run: Run, table: PairTable, start: Path) -> float:
    """KTO's z from plain forwards: each prompt with both responses of the next pair, policy minus start."""
    base, ratios = Policy(load_model(start)), []
    for row in range(len(table)):
        following = (row + 1) % len(table)
        for responses in table.responses:
            batch = pack_responses([(table.prompts[row], [responses[following]], True)])
            with torch.no_grad():
                ratios.append(float(run.engine.module(batch) - base(batch)))
    return max(0.0, sum(ratios) / len(ratios))


def test_ktos_kl_is_one_number_over_the_global_batch(make: Make, pocket_model: Path) -> None:
    """0 at the start; then the mean over mismatched responses, however the batch is cut into micro-batches."""
    kto = make(method="kto", parameters={"beta": 0.5}, batch_size=48, epochs=8, learning_rate=3e-3)
    run = Run(kto)
    assert run.train_step()["loss"] == pytest.approx(1.0, abs=1e-5)
    while run.step < run.total_steps:
        metrics = run.train_step()
    everything = np.arange(48)
    found = run._kl(run.train.mismatched, everything)
    assert isinstance(run.train.rows, PairTable)
    by_hand = kl_by_hand(run, run.train.rows, pocket_model)
    assert found is not None
    assert found.item() == pytest.approx(by_hand, rel=1e-4)
    assert found.item() > 0.01
    assert metrics["loss"] < 0.99
    for budget in (1, 100, 10_000):
        run.spec = changed(kto, tokens_per_microbatch=budget)
        again = run._kl(run.train.mismatched, everything[::-1].copy())
        assert again is not None
        assert again.item() == pytest.approx(found.item(), abs=1e-6)


def test_kto_without_its_reference_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="mismatched responses"):
        Run(make(method="kto", parameters={"beta": 0.5}, mismatched=None))


def test_sft_term_is_added(make: Make) -> None:
    plain = losses(make(method="orpo", parameters={"beta": 1.0}), 1)[0]
    both = losses(make(method="orpo", parameters={"beta": 1.0}, sft_weight=1.0, align_weight=0.5), 1)[0]
    run = Run(make(method="orpo", parameters={"beta": 1.0}))
    indices = run.batches[0]
    batch = run.train.rows.pack([int(i) for i in indices])
    with torch.no_grad():
        logps = run.engine.module(batch)
    sft = float((-logps[0::2] / batch.lengths[0::2]).mean())
    assert both == pytest.approx(0.5 * plain + sft, abs=1e-4)


def test_resumed_run_equals_uninterrupted(make: Make, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    run = Run(make())
    train_until(run, whole, run.total_steps)
    broken = Run(make())
    train_until(broken, parts, 5)  # checkpoints after steps 2 and 4: step 5 is lost
    again = Run(make())
    resume(again, parts)
    assert again.step == 4
    train_until(again, parts, again.total_steps)
    names = ("loss", "grad_norm", "lr", "validation/loss")
    for one, other in zip(*(TrialFolder(folder).read_metrics() for folder in (whole, parts)), strict=True):
        assert [one.get(name) for name in names] == [other.get(name) for name in names]


def test_damaged_checkpoint_is_passed_over(make: Make, tmp_path: Path) -> None:
    run = Run(make())
    train_until(run, tmp_path, 3)
    file = next((tmp_path / "checkpoint").glob("step-*/engine.pt"))
    file.write_bytes(file.read_bytes()[:-10])
    again = Run(make())
    resume(again, tmp_path)
    assert again.step == 0
    assert TrialFolder(tmp_path).read_metrics() == []


def test_reused_weights_are_the_starts_own(make: Make) -> None:
    start = StartWeights()
    first = Run(make(), start)
    values = [first.train_step()["loss"] for _ in range(3)]
    first.close()
    second = Run(make(), start)
    assert [second.train_step()["loss"] for _ in range(3)] == values


def test_non_finite_loss_stops_the_run(make: Make, tmp_path: Path) -> None:
    reference = Path(str(make().data.reference))
    for name in ("train", "validation"):
        rows = read(reference / f"{name}.parquet").to_pylist()
        write(tmp_path / f"{name}.parquet", [{**row, "chosen_logp": float("nan")} for row in rows], REFERENCE)
    with pytest.raises(NonFiniteLossError, match="the loss is nan at step 1"):
        Run(make(reference=str(tmp_path))).train_step()


def test_reference_of_another_table_is_refused(make: Make, tmp_path: Path) -> None:
    reference = Path(str(make().data.reference))
    rows = read(reference / "train.parquet").to_pylist()
    write(tmp_path / "train.parquet", [{**row, "pair_id": row["pair_id"] + 1} for row in rows], REFERENCE)
    with pytest.raises(ValueError, match="belong to another table"):
        Run(make(reference=str(tmp_path)))


def test_schedule_and_stops(make: Make) -> None:
    run = Run(make(epochs=2, validations=3))
    assert run.total_steps == 12
    rates = [run.learning_rate(step) for step in range(12)]
    assert rates[:3] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3])
    assert rates[3] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-3 / 9)
    assert validation_steps(run) == [4, 6, 8, 12]
    assert rung_steps((0.1, 0.3), 12) == [2, 4]


def test_exported_model_is_the_trained_one(make: Make, tmp_path: Path) -> None:
    run = Run(make())
    run.train_step()
    run.export(tmp_path / "model")
    kept = load_model(tmp_path / "model").state_dict()
    for name, tensor in run.engine.module.model.state_dict().items():
        assert torch.equal(kept[name], tensor)
    assert load_tokenizer(tmp_path / "model").chat_template == pocket.TEMPLATE


ANOTHER: dict[str, Any] = {
    "start": "elsewhere",
    "train": "other.parquet",
    "precision": "fp32",
    "engine": "deepspeed",
    "checkpoint_every": 9,
    "validation": "other.parquet",
    "reference": "elsewhere",
    "mismatched": "elsewhere",
    "method": "ipo",
    "code": "another",
    "parameters": {"beta": 0.2},
    "rungs": (0.7,),
    "tokenizer": "elsewhere",
    "attention": "sdpa",
    "lora": LoraSettings(rank=2, alpha=4.0),
    "adam_betas": (0.8, 0.99),
    "head_chunk": 16,
}


@pytest.mark.parametrize("name", PATHS)
def test_the_key_changes_with_every_field_but_those_that_change_time_alone(make: Make, name: str) -> None:
    spec = make(precision="bf16")
    path = PATHS[name]
    value, holder = at(spec, path), at(spec, path[:-1])
    if name in ANOTHER:
        other = ANOTHER[name]
    else:
        assert isinstance(value, bool | int | float), f"{name}: say in ANOTHER what else it may be"
        other = not value if isinstance(value, bool) else value + 1
    field = next(field for field in fields(holder) if field.name == name)
    assert "identity" in field.metadata, f"{name}: say whether a run's result depends on it"
    another = changed(spec, **{name: other})
    assert another != spec
    differ = another.recipe.key("start", "data") != spec.recipe.key("start", "data")
    assert differ == (field.metadata["identity"] is not False)


def test_every_value_that_a_spec_may_hold_says_of_its_fields_what_they_change(make: Make) -> None:
    """Adapters are None in most runs; another of theirs is another trial."""
    keys = {make(lora=LoraSettings(**values)).recipe.key("", "") for values in ({}, {"rank": 2}, {"alpha": 1.0})}
    assert len(keys) == 3


def test_engines_differ_in_bf16_alone(make: Make) -> None:
    plain, sharded = (
        make(precision="fp32", engine=engine).recipe.key("start", "data") for engine in ("torch", "deepspeed")
    )
    assert plain == sharded
    assert plain != make(precision="fp32").recipe.key("start", "other data")
    assert plain != make(precision="fp32").recipe.key("other start", "data")


def test_a_spec_comes_back_from_json(make: Make) -> None:
    assert RunSpec.from_json(json.loads(json.dumps(make().to_json()))) == make()
