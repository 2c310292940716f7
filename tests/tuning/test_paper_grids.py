"""The grids of arXiv 2502.01237 give as many trials as the paper ran."""

import pytest

from raydaa.search_settings import SearchSettings
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


@pytest.mark.parametrize(
    ("extra", "simpo_rates", "trials"),
    [(LOW, RATES, 260), (LOW_CAL_DPO, RATES, 220), ({}, [6e-7], 191)],
    ids=["3B TL;DR", "3B UltraFeedback", "8B UltraFeedback"],
)
def test_the_grid_has_as_many_trials(extra: dict[str, list[float]], simpo_rates: list[float], trials: int) -> None:
    methods = [{"name": name, "beta": [*betas, *extra.get(name, [])]} for name, betas in BETAS.items()]
    methods[2]["learning_rate"] = simpo_rates
    found = groups(SearchSettings.model_validate({"learning_rate": RATES, "methods": methods}))
    assert [group.name for group in found] == [f"sft/{name}" for name in BETAS]
    points = [repr(point) for group in found for _, point in group.next_cohort()]
    assert len(points) == len(set(points)) == trials


def test_one_stage_and_two_stages_at_beta_1() -> None:
    """The study of base against SFT: 48 one-stage trials from the base model, 12 from SFT with and without its term."""
    one_stage = {
        "init": "base",
        "beta": 1.0,
        "sft_weight": 1.0,
        "align_weight": [0.1, 0.2, 0.5, 1.0],
        "learning_rate": [6e-6, 8e-6, 1e-5],
        "training.epochs": [1, 2],
    }
    two_stages = {"init": "sft", "beta": 1.0, "sft_weight": [0.0, 1.0], "learning_rate": [5e-7, 7e-7, 1e-6]}
    methods = [{"name": name, **entry} for entry in (one_stage, two_stages) for name in ("orpo", "asft")]
    found = groups(SearchSettings.model_validate({"learning_rate": RATES, "methods": methods}))
    assert [len(group.next_cohort()) for group in found] == [24, 24, 6, 6]
