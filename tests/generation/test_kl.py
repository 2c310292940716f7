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
from raydaa.training.reference import TwoPolicies, score, score_share
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
    drawn = [r.tokens for r in generate(policy, [PROMPT] * SAMPLES, sampling, [EOS], pad=0, batch_size=1000)]
    both = TwoPolicies(Policy(copy.deepcopy(policy)), Policy(copy.deepcopy(reference)))
    rows, figures = score_share(both, ResponseTable([PROMPT] * SAMPLES, drawn), budget=4096)
    sizes = np.array([len(drawn[row]) for row in rows])
    logp, start_logp, kl = figures.T
    assert (kl >= 0).all()
    return kl_divergence(kl, logp - start_logp, sizes, draws=2000)


def half_widths(error: float, low: float, high: float) -> float:
    """Of the 99 % interval."""
    return abs(error) / ((high - low) / 2 * 2.576 / 1.96)


def test_exact_sampling_finds_the_enumerated_kl(models: tuple[Any, Any]) -> None:
    exact = enumerated(*models)
    assert exact > 0.1
    found = estimated(*models, Sampling(1.0, 0, 1.0, LENGTH, seed=0))
    assert half_widths(found.per_response - exact, found.low, found.high) < 1
    assert half_widths(found.log_ratio - exact, found.log_ratio_low, found.log_ratio_high) < 1
    assert found.high - found.low < 0.8 * (found.log_ratio_high - found.log_ratio_low)  # nothing of it is drawn


def test_the_papers_sampling_misses_by_its_log_ratio(models: tuple[Any, Any]) -> None:
    """Colder samples and a short list of words: the mean log-ratio is that of another distribution, and no number of
    samples would mend it. What both models would write next stays near."""
    exact = enumerated(*models)
    found = estimated(*models, Sampling(0.9, 2, 1.0, LENGTH, seed=0))
    assert half_widths(found.log_ratio - exact, found.log_ratio_low, found.log_ratio_high) > 2
    assert abs(found.per_response - exact) < 0.5 * abs(found.log_ratio - exact)


def test_of_a_model_against_itself_it_is_nothing(models: tuple[Any, Any]) -> None:
    found = estimated(models[0], models[0], Sampling(1.0, 0, 1.0, LENGTH, seed=0))
    assert (found.low, found.per_response, found.high, found.log_ratio, found.largest) == (0, 0, 0, 0, 0)
