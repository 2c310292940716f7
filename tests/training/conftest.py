"""Specs over a small prepared pocket world."""

from dataclasses import replace
from pathlib import Path

import pytest

from raydaa.data.prepare import open_inputs, prepare
from raydaa.study import Study
from raydaa.training.model import load_tokenizer
from raydaa.training.reference import join_shares, write_share
from raydaa.training.spec import RunSpec
from tests.studies import micro
from tests.training.runs import Make


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, pocket_model: Path) -> Make:
    """Specs over a small prepared pocket world with its reference log-probabilities."""
    folder = tmp_path_factory.mktemp("prepared")
    study = Study.from_tree(micro(pocket={"num_sft": 48, "num_pairs": 48, "num_validation": 20, "num_prompts": 5}))
    inputs = open_inputs(study.settings, pocket_model)
    made = prepare(inputs, study.settings.data, load_tokenizer(pocket_model), folder / "tables")
    tables = {name: str(made.folders["pairs"] / f"{name}.parquet") for name in ("train", "validation")}
    options = {"precision": "fp32", "budget": 256, "trust_remote_code": False, "attention": "auto"}
    for name in ("reference", "mismatched"):
        (folder / name).mkdir()
        write_share(str(pocket_model), tables, folder / name, {**options, "mismatched": name == "mismatched"})
        join_shares(folder / name, tables, 1)

    (made.folders["pairs"] / "sft.parquet").write_bytes((made.folders["sft"] / "sft.parquet").read_bytes())

    def spec(**changes: object) -> RunSpec:
        base = RunSpec(
            start=str(pocket_model),
            train=tables["train"],
            validation=tables["validation"],
            reference=str(folder / "reference"),
            mismatched=str(folder / "mismatched"),
            learning_rate=1e-3,
            batch_size=8,
            epochs=1,
            warmup_ratio=0.2,
            max_grad_norm=1.0,
            adam_betas=(0.9, 0.95),
            weight_decay=0.0,
            precision="fp32",
            tokens_per_microbatch=128,
            seed=0,
            engine="torch",
            zero_stage=0,
            checkpoint_every=2,
            validations=2,
            method="dpo",
            parameters={"beta": 0.1},
            rungs=(0.5,),
        )
        return replace(base, **changes)  # type: ignore[arg-type]

    return spec
