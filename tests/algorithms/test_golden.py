"""Every loss against values and gradients that were derived by hand."""

import json
from typing import Any

import pytest
import torch

from raydaa import PairLogps, loss
from raydaa.algorithms.losses import METHODS
from raydaa.testing import with_gradients
from tests.golden.derive import GOLDEN, derive

CASES: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))


def tensors(case: dict[str, Any], dtype: torch.dtype) -> PairLogps:
    columns = {name: torch.tensor([float(p[name]) for p in case["pairs"]], dtype=dtype) for name in case["pairs"][0]}
    sides = (columns[name] for name in ("w", "l", "len_w", "len_l", "ref_w", "ref_l"))
    return PairLogps(*sides, columns["kl"][0])


def answer(case: dict[str, Any], name: str) -> torch.Tensor:
    return torch.tensor([a[name] for a in case["answers"]], dtype=torch.float64)


def label(case: dict[str, Any]) -> str:
    return case["method"] + "".join(f"-{name}={value}" for name, value in case["parameters"].items())


def test_the_file_holds_every_method_and_what_the_derivation_gives() -> None:
    assert {case["method"] for case in CASES} == set(METHODS)
    assert json.loads(json.dumps(derive())) == CASES


@pytest.mark.parametrize("case", CASES, ids=label)
def test_float64_equals_the_derivation(case: dict[str, Any]) -> None:
    output, up, down = with_gradients(loss(case["method"], **case["parameters"]), tensors(case, torch.float64))
    got = (output.loss, up, down, output.chosen_reward, output.rejected_reward)
    for value, name in zip(got, ("loss", "grad_w", "grad_l", "reward_w", "reward_l"), strict=True):
        torch.testing.assert_close(value, answer(case, name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_float32_is_within_its_rounding(case: dict[str, Any]) -> None:
    """Law 9: the loss within 1e-5 of the size of what enters it, gradients within 1e-5 of the batch's steepest."""
    output, up, down = with_gradients(loss(case["method"], **case["parameters"]), tensors(case, torch.float32))
    assert output.loss.dtype == torch.float32
    wrong = (output.loss.double() - answer(case, "loss")).abs()
    assert (wrong <= 1e-5 * answer(case, "scale")).all()
    exact = torch.stack([answer(case, "grad_w"), answer(case, "grad_l")])
    assert (torch.stack([up, down]).double() - exact).abs().max() <= 1e-5 * exact.abs().max()
