"""Specs over a small prepared pocket world."""

from pathlib import Path

import pytest

from raydaa.study import Study
from raydaa.training.spec import RunSpec
from tests.studies import micro
from tests.tables import folder_of, prepare
from tests.training.runs import Make, changed, run_spec, write_references


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, pocket_model: Path) -> Make:
    """Specs over a small prepared pocket world with its reference log-probabilities."""
    folder = tmp_path_factory.mktemp("prepared")
    study = Study.from_tree(micro(pocket={"num_sft": 48, "num_pairs": 48, "num_validation": 20, "num_prompts": 5}))
    made = prepare(study, pocket_model, folder / "tables")
    pairs = folder_of(made, "pairs")
    tables = {name: str(pairs / f"{name}.parquet") for name in ("train", "validation")}
    references = write_references(pocket_model, tables, folder)

    (pairs / "sft.parquet").write_bytes((folder_of(made, "sft") / "sft.parquet").read_bytes())

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
