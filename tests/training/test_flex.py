"""FlexAttention without a GPU: its masks, how often it would be compiled, which kernels torch would be left with."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import flex_attention as torchs

from raydaa.data.packing import PackedBatch, pack_responses
from raydaa.errors import MachineError
from raydaa.training import flex, probe
from raydaa.training.model import Policy, load_model
from tests.training.lowering import variants

MASKS = [f"{full}{side}" for full in ("", "full_") for side in ("kv", "q")]


def packed(draw: np.random.Generator, rows: int, longest: int, shared: bool = True) -> PackedBatch:
    """Prompts, of which some are empty, with two responses."""

    def tokens(least: int) -> np.ndarray:
        return draw.integers(0, 9, draw.integers(least, longest))

    return pack_responses([(tokens(int(i > 0)), [tokens(1), tokens(1)], shared) for i in range(rows)])


@pytest.mark.parametrize("window", [None, 1, 7, 64, 128, 300])
@pytest.mark.parametrize("longest", [6, 60, 300])
@pytest.mark.parametrize("shared", [True, False])
def test_masks_are_torchs_own(window: int | None, longest: int, shared: bool) -> None:
    draw = np.random.default_rng(longest)
    for rows in (1, 2, 5):
        batch = packed(draw, rows, longest, shared)
        size = len(batch.tokens)
        mine = flex.flex_masks(batch.blocks, batch.positions, (window,))[window]
        other = torchs.create_block_mask(mine.mask_mod, None, None, size, size, device="cpu")
        assert mine.seq_lengths == other.seq_lengths
        for name in MASKS:
            counts, expected = getattr(mine, f"{name}_num_blocks"), getattr(other, f"{name}_num_blocks")
            assert torch.equal(counts, expected)
            used = torch.arange(counts.shape[-1]) < counts[..., None]
            tiles, those = getattr(mine, f"{name}_indices"), getattr(other, f"{name}_indices")
            assert torch.equal(tiles[used], those[used])
            assert (tiles.dtype, tiles.shape) == (those.dtype, those.shape)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the kernel is compiled, by what only counts."""
    times: Counter[str] = Counter()

    def count(graph: Any, inputs: Any) -> Any:
        times["compiled"] += 1
        return graph.forward

    monkeypatch.setattr(torchs, "_validate_device", lambda *_: None)  # it knows no gradients on a CPU
    compiled = flex.compiled(torchs.flex_attention, count)
    monkeypatch.setattr(flex, "_flex", lambda: compiled)
    torch._dynamo.reset()
    return times


def attend(batch: PackedBatch, window: int | None, gradients: bool) -> None:
    masks = flex.flex_masks(batch.blocks, batch.positions, (None, 64))
    query, key, value = (
        torch.randn(1, heads, len(batch.tokens), 16, dtype=torch.bfloat16, requires_grad=gradients)
        for heads in (8, 2, 2)
    )
    with torch.set_grad_enabled(gradients):
        flex.packed_flex(None, query, key, value, None, flex_masks=masks, sliding_window=window)


def test_it_is_compiled_once_for_all_lengths(counted: Counter[str]) -> None:
    """For each kind of layer with and without gradients, for rows of one tile and of more; masks are never."""
    draw = np.random.default_rng(0)
    for turn in range(12):
        batch = packed(draw, 1 + turn % 5, (40, 100, 200)[turn % 3])
        for window in (None, 64):
            for gradients in (True, False):
                attend(batch, window, gradients)
        if turn == 3:
            early = counted["compiled"]
    assert counted["compiled"] == early <= 8


def test_a_variant_too_many_is_an_error(counted: Counter[str]) -> None:
    """Uncompiled it would lay out the scores of every token with every token."""
    draw = np.random.default_rng(0)
    with torch._dynamo.config.patch(recompile_limit=1):
        attend(packed(draw, 1, 40), None, gradients=True)
        with pytest.raises(MachineError, match="FlexAttention could not be compiled"):
            attend(packed(draw, 5, 200), 64, gradients=False)


def options_given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the kernel is asked for."""
    given: dict[str, Any] = {}

    def attention(query: torch.Tensor, *_: Any, **arguments: Any) -> torch.Tensor:
        given.update(arguments["kernel_options"])
        return query

    monkeypatch.setattr(flex, "_flex", lambda: attention)
    attend(packed(np.random.default_rng(0), 1, 40), None, gradients=False)
    return given


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=["sm80", "sm90"])
@pytest.mark.parametrize("heads", [(32, 8), (64, 8), (16, 2), (24, 8), (16, 8), (4, 4)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_torch_has_a_kernel_for_every_length(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], heads: tuple[int, int], dtype: torch.dtype
) -> None:
    options = options_given(monkeypatch)
    for tokens in (1, 27, 33, 40, 64, 100, 127, 128, 200, 1000, 4096):
        found = variants(monkeypatch, capability, heads, tokens, dtype, options)
        assert found.keys() == {"flex_attention", "flex_attention_backward"}
        assert all(found.values())


def test_the_kernel_for_decoding_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch takes for short rows by itself: why it is told otherwise."""
    assert variants(monkeypatch, (8, 0), (32, 8), 40, torch.bfloat16, {})["flex_decoding"] == 0


def test_a_compilers_error_is_no_fault_of_the_architecture(monkeypatch: pytest.MonkeyPatch, pocket_model: Path) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("gcc: fatal error: Python.h: No such file or directory")

    policy = Policy(load_model(pocket_model))
    monkeypatch.setattr(flex, "_flex", lambda: broken)
    probe._known.clear()
    with pytest.raises(MachineError, match=r"FlexAttention could not be compiled: .*Python\.h"):
        probe.find_way(policy, "flex")
