"""The files of arXiv 2502.01237's studies hold its grids, and give as many trials as it ran."""

from pathlib import Path

import pytest

from raydaa.store.records import Point
from raydaa.study import Study
from raydaa.tuning.search_space import groups

RATES = [3e-7, 5e-7, 7e-7, 1e-6]
BETAS = {
    "dpo": [0.001, 0.003, 0.005, 0.01, 0.05, 0.1],
    "ipo": [0.0007, 0.001, 0.005, 0.01, 0.05, 0.1],
    "simpo": [0.05, 0.1, 0.2, 0.5, 1, 2, 5],
    "orpo": [0.05, 0.1, 0.2, 0.5, 1, 2],
    "asft": [0.05, 0.1, 0.2, 0.5, 1, 2],
    "apo_zero": [0.001, 0.003, 0.005, 0.01, 0.05, 0.1, 0.2],
    "cal_dpo": [0.00005, 0.0001, 0.0003, 0.0005, 0.001, 0.003],
    "nca": [0.0001, 0.0003, 0.0005, 0.001, 0.005, 0.007, 0.01, 0.03, 0.05],
}
LOW_CAL_DPO = {"cal_dpo": [0.00001, 0.00003]}
LOW = {
    **LOW_CAL_DPO,
    "nca": [0.00001, 0.00003, 0.00005],
    "apo_zero": [0.0003, 0.0005],
    "asft": [0.0003, 0.0005, 0.001, 0.003, 0.005],
}


SPACES = Path(__file__).parents[2] / "search_spaces"


def points(name: str) -> dict[str, list[Point]]:
    """A study file's trials by group."""
    found = groups(Study.load(SPACES / f"{name}.yaml").settings.search)
    return {group.name: [point for _, point in group.next_cohort()] for group in found}


@pytest.mark.parametrize(
    ("name", "extra", "simpo_rates", "trials"),
    [("tldr_3b", LOW, RATES, 260), ("uf_3b", LOW_CAL_DPO, RATES, 220), ("uf_8b", {}, [6e-7], 191)],
)
def test_the_grid_has_as_many_trials(
    name: str, extra: dict[str, list[float]], simpo_rates: list[float], trials: int
) -> None:
    found = points(name)
    assert len({repr(point) for group in found.values() for point in group}) == trials
    assert list(found) == [f"sft/{method}" for method in BETAS]
    for method, betas in BETAS.items():
        tried = {(point.parameters["beta"], point.learning_rate) for point in found[f"sft/{method}"]}
        rates = simpo_rates if method == "simpo" else RATES
        assert tried == {(beta, rate) for beta in [*betas, *extra.get(method, [])] for rate in rates}


def test_one_stage_and_two_stages_at_beta_1() -> None:
    """48 one-stage trials from the base model, 12 from SFT with and without its term, and dpo."""
    found = points("base_vs_sft_8b")
    assert {name: len(group) for name, group in found.items()} == {
        "base/orpo": 24,
        "base/asft": 24,
        "sft/orpo": 6,
        "sft/asft": 6,
        "sft/dpo": 6,
    }
    assert {point.sft_weight for point in found["base/orpo"]} == {1.0}
    assert {point.align_weight for point in found["base/asft"]} == {0.1, 0.2, 0.5, 1.0}
    assert {point.training["epochs"] for point in found["base/asft"]} == {1, 2}
    assert {point.parameters["beta"] for point in found["sft/asft"]} == {1.0}


def test_every_method_from_eight_starts_with_its_best_setting() -> None:
    found = points("sft_fraction_8b")
    assert len(found) == 64
    assert all(len(group) == 1 for group in found.values())
    best = {name.partition("/")[2]: (point.learning_rate, point.parameters["beta"]) for name, [point] in found.items()}
    assert best == {
        "dpo": (1e-6, 0.003),
        "ipo": (1e-6, 0.001),
        "simpo": (6e-7, 1.0),
        "orpo": (5e-7, 0.5),
        "asft": (7e-7, 0.1),
        "apo_zero": (3e-7, 0.003),
        "nca": (3e-7, 0.0003),
        "cal_dpo": (3e-7, 0.0003),
    }
