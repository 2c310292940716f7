"""Every study of search_spaces has a twin in the pocket world, of the same shape."""

from pathlib import Path

import pytest

from raydaa.results import TrialResults
from raydaa.study import Study
from raydaa.tuning.search_space import groups
from tests.command import Command
from tests.studies import done

SPACES = sorted(path for path in Path("search_spaces").glob("*.yaml") if path.stem != "toy")


def shape(study: Study) -> dict[str, int]:
    """How many trials each start and method has."""
    return {group.name: len(group.next_cohort()) for group in groups(study.settings.search)}


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_a_twin_has_the_methods_and_starts_of_its_study(path: Path) -> None:
    study = Study.load(path)
    instructed = {name for name in shape(study) if name.count("/") > 1}  # a model of its own has another stand in
    kept = {name: count for name, count in shape(study).items() if name not in instructed}
    whole, thin = shape(study.pocket_twin(full=True)), shape(study.pocket_twin())
    assert {name: whole[name] for name in kept} == kept
    assert len(whole) == len(shape(study))
    assert set(thin) == set(whole)
    for method in study.pocket_twin().settings.search.methods:
        assert len(method.parameters.get("beta", ())) <= 3
        assert method.learning_rate is not None
        assert len(method.learning_rate) <= 2


def test_ranges_stay_ranges() -> None:
    values = {
        "search.sampler": "tpe",
        "search.learning_rate": {"low": 1e-7, "high": 1e-5, "log": True},
        "search.methods": [{"name": "dpo", "beta": {"low": 0.001, "high": 0.1, "log": True}}],
    }
    method = Study.load("search_spaces/uf_3b.yaml", values).pocket_twin().settings.search.methods[0]
    assert (method.learning_rate.low, method.learning_rate.high) == (3e-4, 1e-3)  # type: ignore[union-attr]
    assert (method.parameters["beta"].low, method.parameters["beta"].high) == (0.02, 1.0)


@pytest.mark.slow
def test_a_small_twin_runs(tmp_path: Path) -> None:
    command, folder, path = Command(tmp_path / "home"), tmp_path / "out", SPACES[0].with_name("sft_fraction_8b.yaml")
    sizes = [
        "pocket={num_sft: 100, num_pairs: 96, num_validation: 32, num_prompts: 20}",
        "generation.engine=transformers",
    ]
    fewer = ["search.init=[base, sft]", "evaluation.models=[base, sft]", "sft.epochs=1"]
    arguments = [part for value in [*sizes, *fewer] for part in ("--set", value)]
    done(command.run("run", str(path.absolute()), "--pocket", "--output", str(folder), *arguments))
    assert command.wait_until_gone() == {}
    results = TrialResults.load(folder)
    assert len(results) == 16
    assert {row.init for row in results} == {"base", "sft"}
    assert all(row.win_rate is not None for row in results if row.state == "finished")
    assert set(results.models) == {"base", "sft"}
