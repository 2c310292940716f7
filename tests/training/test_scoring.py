"""Packed rows give the log-probabilities of separate ones."""

from pathlib import Path

import numpy as np
import pytest
import torch

from raydaa.data.packing import ResponseTable, pack_responses
from raydaa.training.model import Policy, load_model
from raydaa.training.reference import score
from tests.models import make_llama

PAIRS = [
    ([1, 10, 11, 12], [20, 21, 22, 2], [30, 2]),
    ([1, 13], [23, 2], [31, 32, 33, 34, 35, 2]),
    ([1, 14, 15, 16, 17, 18, 19], [24, 2], [36, 37, 2]),
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = make_llama(tmp_path_factory.mktemp("llama"), ["some text to learn from"] * 3)
    return Policy(load_model(folder)).eval()


def alone(policy: Policy, prompt: list[int], response: list[int]) -> float:
    """The plain computation: one unpadded row, full logits."""
    with torch.no_grad():
        logits = policy.model(torch.tensor([prompt + response])).logits[0].float()
    logps = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
    return float(logps.gather(1, torch.tensor(response)[:, None]).sum())


def packed(policy: Policy, pairs: list[tuple[list[int], list[int], list[int]]]) -> list[float]:
    rows = [(np.array(prompt), [np.array(chosen), np.array(rejected)]) for prompt, chosen, rejected in pairs]
    with torch.no_grad():
        return policy(pack_responses(rows)).tolist()


def test_shared_rows_equal_separate_ones(policy: Policy) -> None:
    expected = [alone(policy, prompt, response) for prompt, *responses in PAIRS for response in responses]
    assert packed(policy, PAIRS) == pytest.approx(expected, abs=1e-4)


def test_rejected_does_not_see_chosen(policy: Policy) -> None:
    prompt, chosen, rejected = PAIRS[0]
    before = packed(policy, [(prompt, chosen, rejected)])[1]
    after = packed(policy, [(prompt, [40, 41, 42, 2], rejected)])[1]
    assert after == pytest.approx(before, abs=1e-6)


def test_neighbours_do_not_matter(policy: Policy) -> None:
    together = packed(policy, PAIRS)[:2]
    assert packed(policy, [PAIRS[0], PAIRS[2], PAIRS[1]])[:2] == pytest.approx(together, abs=1e-5)


def test_scores_of_single_responses(policy: Policy) -> None:
    prompts, responses = [pair[0] for pair in PAIRS], [pair[2] for pair in PAIRS]
    table = ResponseTable(prompts, responses)
    sums = score(policy, table, np.array([2, 0, 1]), budget=12)[:, 0]
    expected = [alone(policy, prompts[i], responses[i]) for i in (2, 0, 1)]
    assert sums.tolist() == pytest.approx(expected, abs=1e-4)


def test_a_model_folder_without_a_model_is_named(tmp_path: Path) -> None:
    from raydaa.pipeline.context import local_model
    from raydaa.settings_file import InputError

    with pytest.raises(InputError, match="is not a model folder"):
        local_model(str(tmp_path))
    with pytest.raises(InputError, match="there is no such model folder"):
        local_model(str(tmp_path / "no"))
