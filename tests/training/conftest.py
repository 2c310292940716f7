"""Specs over a small prepared pocket world."""

from pathlib import Path

import pytest

from raydaa.data.inputs import open_inputs
from raydaa.data.prepare import prepare
from raydaa.study import Study
from raydaa.training.spec import RunSpec
from raydaa.training.tokenizer import load_tokenizer
from tests.studies import micro
from tests.training.runs import Make, changed, run_spec, write_references


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, pocket_model: Path) -> Make:
    """Specs over a small prepared pocket world with its reference log-probabilities."""
    folder = tmp_path_factory.mktemp("prepared")
    study = Study.from_tree(micro(pocket={"num_sft": 48, "num_pairs": 48, "num_validation": 20, "num_prompts": 5}))
    inputs = open_inputs(study.settings, pocket_model)
    made = prepare(inputs, study.settings.data, load_tokenizer(pocket_model), folder / "tables")
    tables = {name: str(made.folders["pairs"] / f"{name}.parquet") for name in ("train", "validation")}
    references = write_references(pocket_model, tables, folder)

    (made.folders["pairs"] / "sft.parquet").write_bytes((made.folders["sft"] / "sft.parquet").read_bytes())

    def spec(**changes: object) -> RunSpec:
        base = run_spec(
            start=str(pocket_model),
            **tables,
            **references,
            batch_size=8,
            warmup_ratio=0.2,
            tokens_per_microbatch=128,
            checkpoint_every=2,
            rungs=(0.5,),
        )
        return changed(base, **changes)

    return spec
