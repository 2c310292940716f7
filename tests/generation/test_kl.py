"""KL estimates from real models' samples, against the KL of every response they can give."""

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydaa.data.packing import ResponseTable
from raydaa.evaluation.kl import Divergence, kl_divergence
from raydaa.generation.sample import Sampling, generate
from raydaa.training.model import Policy, load_model
from raydaa.training.reference import score
from tests.models import save_llama

WORDS, EOS, LENGTH, PROMPT, SAMPLES = 5, 2, 4, [1, 3, 4], 4000


def model_of(folder: Path, seed: int) -> Any:
    """A model with opinions: the head of a freshly initialised one would give all words about the same chance."""
    model = load_model(save_llama(folder / str(seed), vocab_size=WORDS, hidden=32, layers=1)).eval()
    head = model.lm_head.weight
    with torch.no_grad():
        head.copy_(torch.randn(head.shape, generator=torch.Generator().manual_seed(seed)) * 0.15)
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("small")
    return model_of(folder, 1), model_of(folder, 2)


def logps(model: Any, responses: list[list[int]]) -> np.ndarray:
    """By the training scorer, which changes a model's attention: the one that generates stays as it is."""
    policy = Policy(copy.deepcopy(model))
    table = ResponseTable([PROMPT] * len(responses), responses)
    return score(policy, table, np.arange(len(responses)), budget=4096)[:, 0]


def enumerated(policy: Any, reference: Any) -> float:
    """Σ p log(p/q) over every response: words up to the first end, or as many as may be."""
    every = itertools.chain(*(itertools.product(range(WORDS), repeat=size) for size in range(1, LENGTH + 1)))
    responses = [list(r) for r in every if EOS not in r[:-1] and (r[-1] == EOS or len(r) == LENGTH)]
    mine, theirs = logps(policy, responses), logps(reference, responses)
    assert np.exp(mine).sum() == pytest.approx(1, abs=1e-5)
    return float((np.exp(mine) * (mine - theirs)).sum())


def estimated(policy: Any, reference: Any, sampling: Sampling) -> Divergence:
    drawn = generate(policy, [PROMPT] * SAMPLES, sampling, [EOS], pad=0, batch_size=1000)
    sizes = np.array([len(response.tokens) for response in drawn])
    reference_logps = logps(reference, [response.tokens for response in drawn])
    return kl_divergence(np.array([response.logp for response in drawn]), reference_logps, sizes, draws=2000)


def distance(found: Divergence, exact: float) -> float:
    """From estimate to truth, in half-widths of the 99 % interval."""
    return abs(found.per_response - exact) / ((found.high - found.low) / 2 * 2.576 / 1.96)


def test_exact_sampling_finds_the_enumerated_kl(models: tuple[Any, Any]) -> None:
    exact = enumerated(*models)
    assert exact > 0.1
    assert distance(estimated(*models, Sampling(1.0, 0, 1.0, LENGTH, seed=0)), exact) < 1


def test_the_papers_sampling_does_not(models: tuple[Any, Any]) -> None:
    """Colder samples and a short list of words: the mean is that of another distribution, and no number of samples
    would mend it."""
    exact = enumerated(*models)
    assert distance(estimated(*models, Sampling(0.9, 2, 1.0, LENGTH, seed=0)), exact) > 2
