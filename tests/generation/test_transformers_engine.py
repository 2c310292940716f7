"""The in-process engine: reproducible, and its log-probabilities are the model's own."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydaa.data.packing import ResponseTable
from raydaa.generation.sample import Sampling, generate
from raydaa.training.model import Policy, load_model
from raydaa.training.reference import score

PROMPTS = [[1, 10, 11, 12, 7], [1, 13, 7], [1, 14, 15, 16, 17, 18, 19, 7], [1, 20, 7]]


@pytest.fixture(scope="module")
def model(pocket_model: Path) -> Any:
    return load_model(pocket_model).eval()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("top_k", [0, 3])
def test_raw_log_probabilities(model: Any, temperature: float, top_k: int) -> None:
    sampling = Sampling(temperature, top_k, 1.0, 12, seed=3)
    responses = generate(model, PROMPTS, sampling, stops=[2], pad=0, batch_size=3)
    table = ResponseTable(PROMPTS, [response.tokens for response in responses])
    expected = score(Policy(copy.deepcopy(model)), table, np.arange(len(PROMPTS)), budget=64)[:, 0]
    assert [response.logp for response in responses] == pytest.approx(expected.tolist(), abs=1e-4)


def test_same_seed_same_tokens(model: Any) -> None:
    runs = [generate(model, PROMPTS, Sampling(1.0, 0, 1.0, 12, seed), [2], 0, 2) for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_ends_at_whichever_stop_comes_first(model: Any) -> None:
    """A turn may end with several ids; what would have followed is not kept."""
    sampling = Sampling(0.0, 0, 1.0, 12, seed=0)
    plain = generate(model, PROMPTS, sampling, stops=[2], pad=0, batch_size=4)
    early = plain[0].tokens[3]
    for before, after in zip(plain, generate(model, PROMPTS, sampling, [early, 2], 0, batch_size=4), strict=True):
        if early in before.tokens:
            assert after.tokens == before.tokens[: before.tokens.index(early) + 1]
            assert not after.cut
        else:
            assert after == before


def test_ends_at_eos_or_is_marked_as_cut(model: Any) -> None:
    sampling = Sampling(1.0, 0, 1.0, 40, seed=0)
    responses = generate(model, PROMPTS * 30, sampling, stops=[2], pad=0, batch_size=32)
    assert {response.cut for response in responses} == {True, False}
    for response in responses:
        assert response.cut == (response.tokens[-1] != 2)
        assert response.cut == (2 not in response.tokens)
        assert len(response.tokens) == 40 or not response.cut
