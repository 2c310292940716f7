"""A packed row gives the log-probabilities of separate ones, for every family and both ways of packing."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from raydaa.data.packing import ResponseTable, pack_responses
from raydaa.training import attention, probe
from raydaa.training.model import Policy, chunked_logps, without_dropout
from raydaa.training.reference import score

Pair = tuple[list[int], list[int], list[int]]
SHORT: list[Pair] = [
    ([1, 10, 11, 12], [20, 21, 22, 2], [30, 2]),
    ([1, 13], [23, 2], [31, 32, 33, 34, 35, 2]),
    ([1, 14, 15, 16, 17, 18, 19], [24, 2], [36, 37, 2]),
]


def long_pairs() -> list[Pair]:
    """Longer than every sliding window below."""
    generator = np.random.default_rng(0)

    def draw(size: int) -> list[int]:
        return [*map(int, generator.integers(3, 60, size))]

    return [(draw(5), draw(40), draw(30)), (draw(30), draw(4), draw(20)), (draw(12), draw(12), draw(1))]


SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
    "mistral": ("Mistral", {"sliding_window": 8}),
    "gemma": ("Gemma", {}),
    "gemma2": ("Gemma2", {"sliding_window": 8, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("Gemma3", {"sliding_window": 8}),
    "granite": ("Granite", {"logits_scaling": 4.0}),
    "cohere": ("Cohere", {"logit_scale": 0.25}),
}


def make(family: str) -> Any:
    """A tiny random model with weights large enough that every mistake shows."""
    kind, changes = FAMILIES[family]
    config_class = getattr(transformers, "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config")
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config_class(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    model.set_attn_implementation("eager")
    return model


def alone(model: Any, prompt: list[int], response: list[int]) -> float:
    """The plain computation: one unpadded row, full logits, eager attention."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0].float()
    logps = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
    return float(logps.gather(1, torch.tensor(response)[:, None]).sum())


def packed(policy: Policy, pairs: list[Pair], shared: bool = True) -> list[float]:
    rows = [(np.array(prompt), [np.array(chosen), np.array(rejected)], shared) for prompt, chosen, rejected in pairs]
    with torch.no_grad():
        return policy(pack_responses(rows)).tolist()


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("kind", ["sdpa", "flex"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("pairs", [SHORT, long_pairs()], ids=["short", "long"])
def test_packed_rows_equal_separate_ones(family: str, kind: str, shared: bool, pairs: list[Pair]) -> None:
    model = make(family)
    expected = [alone(model, prompt, response) for prompt, *responses in pairs for response in responses]
    policy = Policy(make(family), attention=kind).eval()
    assert policy.attention == kind
    assert packed(policy, pairs, shared) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", ["sdpa", "flex"])
def test_nothing_leaks_between_pairs_or_responses(family: str, kind: str) -> None:
    policy = Policy(make(family), attention=kind).eval()
    pairs = long_pairs()
    before = packed(policy, pairs)
    other = (pairs[1][0], pairs[1][1], pairs[0][1])
    assert packed(policy, [pairs[0], other, pairs[2]])[:2] == pytest.approx(before[:2], abs=1e-6)
    assert packed(policy, [pairs[0], other, pairs[2]])[4:] == pytest.approx(before[4:], abs=1e-6)
    # Within a pair: the other response may change, in either place of the row.
    for chosen, rejected, kept in ((pairs[0][1], pairs[2][2], 0), (pairs[2][1], pairs[0][2], 1)):
        changed = packed(policy, [(pairs[0][0], chosen, rejected)])
        assert changed[kept] == pytest.approx(before[kept], rel=1e-6)


def test_gradients_equal_those_of_separate_rows(family: str) -> None:
    """Of every weight, also through the chunked head."""
    pairs = long_pairs()
    model, policy = make(family), Policy(make(family), attention="sdpa")
    weights = torch.randn(6, generator=torch.Generator().manual_seed(1))
    total = torch.zeros(())
    sequences = [(prompt, response) for prompt, *responses in pairs for response in responses]
    for weight, (prompt, response) in zip(weights, sequences, strict=True):
        logits = model(torch.tensor([prompt + response])).logits[0]
        logps = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
        total = total + weight * logps.gather(1, torch.tensor(response)[:, None]).sum()
    total.backward()
    rows = [(np.array(prompt), [np.array(c), np.array(r)], True) for prompt, c, r in pairs]
    (policy(pack_responses(rows)) * weights).sum().backward()
    for one, other in zip(model.parameters(), policy.model.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["Mamba", "Bloom"])
def test_other_architectures_get_padded_rows_and_one_line_of_log(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "n_layer": 2, "n_head": 4, "pad_token_id": 0}
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    expected = [alone(model, prompt, response) for prompt, *responses in SHORT for response in responses]
    probe._known.clear()
    with caplog.at_level(logging.WARNING, "raydaa.training.probe"):
        policy = Policy(model).eval()
    assert [record.message for record in caplog.records if record.name == "raydaa.training.probe"] == [
        f"{kind}ForCausalLM with sdpa attention: padded rows"
    ]
    assert policy.attention == "padded"
    assert not policy.sharing.allowed
    assert packed(policy, SHORT, shared=False) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (
            "Qwen2Moe",
            {
                "use_sliding_window": True,
                "sliding_window": 8,
                "layer_types": ["sliding_attention", "full_attention"],
                "num_experts": 8,
            },
        ),
        ("PhiMoE", {"sliding_window": 8}),
    ],
)
def test_windows_that_only_the_masks_know_are_noticed(kind: str, changes: dict[str, Any]) -> None:
    """Attention never hears of them, so a packed row would see the whole past; the few tokens tried are too few."""
    name = {"PhiMoE": "Phimoe"}.get(kind, kind)
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **changes})
    policy = Policy(getattr(transformers, f"{name}ForCausalLM")(config)).eval()
    policy.model.set_attn_implementation(attention.SDPA)
    rows = pack_responses([(np.array(p), [np.array(one), np.array(other)], True) for p, one, other in SHORT])
    with attention.recording_windows() as seen, torch.no_grad():
        policy.ask(rows, probe.Way("sdpa"))
    heard = {window for window in seen if window is not None}
    assert policy.attention == ("sdpa" if heard else "padded")


def test_dropout_is_off() -> None:
    """A policy that is its own reference has their log-probabilities, in training mode too."""
    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    without_dropout(model)
    policy = Policy(model).train()
    assert packed(policy, SHORT, shared=False) == packed(policy, SHORT, shared=False)
    policy.eval()
    quiet = packed(policy, SHORT, shared=False)
    assert packed(policy.train(), SHORT, shared=False) == pytest.approx(quiet, abs=1e-6)


def test_scores_of_single_responses() -> None:
    prompts, responses = [pair[0] for pair in SHORT], [pair[2] for pair in SHORT]
    sums = score(Policy(make("llama")).eval(), ResponseTable(prompts, responses), np.array([2, 0, 1]), budget=12)[:, 0]
    model = make("llama")
    expected = [alone(model, prompts[i], responses[i]) for i in (2, 0, 1)]
    assert sums.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("chunks", [1, 4, 23, 30])
def test_the_chunked_head_is_the_plain_one(chunks: int) -> None:
    """Values and both gradients, with a bias and soft-capped logits, also where there are more chunks than tokens."""
    torch.manual_seed(0)
    targets = torch.randint(0, 50, (23,))

    def values_of(run: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]) -> list[Tensor]:
        torch.manual_seed(1)
        hidden, head = torch.randn(23, 16, requires_grad=True), torch.nn.Linear(16, 50)
        logps = run(lambda part: 4 * torch.tanh(head(part) / 4), hidden)
        (logps * torch.linspace(-1, 1, 23)).sum().backward()
        assert hidden.grad is not None
        return [logps, hidden.grad, head.weight.grad, head.bias.grad]  # type: ignore[list-item]

    def plain(logits_of: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        return torch.log_softmax(logits_of(hidden), dim=-1).gather(1, targets[:, None])[:, 0]

    chunked = partial(chunked_logps, targets=targets, chunks=chunks)
    for one, other in zip(values_of(plain), values_of(chunked), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


def test_a_model_folder_without_a_model_is_named(tmp_path: Path) -> None:
    from raydaa.errors import InputError
    from raydaa.store.models import local_model

    with pytest.raises(InputError, match="is not a model folder"):
        local_model(str(tmp_path))
    with pytest.raises(InputError, match="there is no such model folder"):
        local_model(str(tmp_path / "no"))
