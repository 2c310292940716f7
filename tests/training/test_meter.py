"""What a step says of the machine."""

import numpy as np
import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from raydaa.accelerators import rate_of
from raydaa.data.packing import ResponseTable
from raydaa.training.memory import Shape
from raydaa.training.meter import Meter
from raydaa.training.model import Policy
from raydaa.training.run import Run
from tests.training.runs import Make


@pytest.mark.parametrize(
    ("card", "rate"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", None),
        ("Tesla V100-SXM2-16GB", None),
    ],
)
def test_cards_that_are_known(card: str, rate: float | None) -> None:
    assert rate_of(card) == rate


def test_a_step_is_measured(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operations are 6 for each weight and token, and 12 for each pair of tokens, layer and number of a head."""
    run = Run(make())
    metrics = run.train_step()
    assert metrics["attention"] == "sdpa"
    assert metrics["padding"] == 0.0
    assert "mfu" not in metrics  # nobody says what a CPU can do
    assert "peak_memory" not in metrics
    work, shape = run.train.rows.work(run.batches[0]), run.meter.shape
    model = run.policy.model
    inner = sum(p.numel() for p in model.model.layers.parameters()) + model.model.norm.weight.numel()
    head = model.lm_head.weight.numel()
    pairs = [run.train.rows.prompts.lengths[i] for i in run.batches[0]]
    sizes = [[side.lengths[i] for side in run.train.rows.responses] for i in run.batches[0]]
    scored = sum(map(sum, sizes))
    cells = sum(p * p / 2 + sum(p * s + s * s / 2 for s in both) for p, both in zip(pairs, sizes, strict=True))
    config = model.config
    width = config.num_attention_heads * config.head_dim
    expected = 6 * (inner * (sum(pairs) + scored) + head * scored) + 12 * config.num_hidden_layers * width * cells
    assert shape.flops(work.tokens, work.scored, work.cells) == pytest.approx(expected)
    monkeypatch.setattr(run.meter, "rate", 312e12)
    assert run.meter.read(run.train.rows, run.batches[0], seconds=2.0)["mfu"] == pytest.approx(
        expected / (2.0 * 312e12)
    )


def test_padding_is_a_share_of_all_tokens() -> None:
    """Of an architecture that takes no packed rows."""
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
    policy = Policy(BloomForCausalLM(config))
    meter = Meter(Shape.of_model(policy.model), policy, torch.device("cpu"))
    meter.begin()
    table = ResponseTable([[1, 2, 3], [1]], [[4, 5, 6, 7, 8], [9]])
    policy(table.pack([0, 1]))
    assert meter.read(table, np.arange(2), seconds=1.0) == {"attention": "padded", "padding": 6 / 16}
