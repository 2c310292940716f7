"""How many kernels torch's own lowering of FlexAttention is left with, on a machine without a GPU.

The two functions that choose are torch's; the tensors they are given, and what would build a kernel, are stand-ins.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import sympy
import torch

BLOCKS = 128
ATEN, PRIMS = torch.ops.aten, torch.ops.prims
LOWERED = (ATEN.mul, ATEN.sum, ATEN.as_strided, PRIMS.convert_element_type)


class Chosen(Exception):
    """Raised where torch would begin to compile."""


class Standing:
    """What the choice asks of a tensor."""

    def __init__(self, *size: int, dtype: torch.dtype = torch.bfloat16) -> None:
        self.size, self.dtype = [sympy.Integer(each) for each in size], dtype

    def get_size(self) -> list[sympy.Integer]:
        return self.size

    def get_dtype(self) -> torch.dtype:
        return self.dtype

    def get_device(self) -> torch.device:
        return torch.device("cuda")

    def get_stride(self) -> list[int]:
        return [1] * len(self.size)


class Sizes:
    """Every size is known."""

    def evaluate_expr(self, value: Any) -> bool:
        return bool(value)

    guard_or_false = statically_known_true = evaluate_expr

    def guard_int(self, value: Any) -> int:
        return int(value)

    optimization_hint = guard_int


class Template:
    """Notes the variants that torch would build."""

    def maybe_append_choice(self, choices: list[Any], **options: Any) -> None:
        choices.append(options)


def nothing(*_: Any, **__: Any) -> Any:
    return None


def same(value: Any, *_: Any, **__: Any) -> Any:
    return value


def stand_in(patch: pytest.MonkeyPatch, capability: tuple[int, int]) -> Any:
    """torch's module of the lowering, with stand-ins for all that needs a graph."""
    from torch._inductor.kernel.flex import flex_attention, flex_decoding
    from torch._inductor.template_heuristics.triton import CUDAConfigHeuristic

    patch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    known = CUDAConfigHeuristic()

    class Choices:
        def get_flex_attention_fwd_configs(self, size: int, dtype: torch.dtype, device: str) -> Any:
            return known.get_flex_attn_fwd_configs(size, dtype)

        def get_flex_attention_bwd_configs(self, size: int, dtype: torch.dtype, device: str) -> Any:
            return known.get_flex_attn_bwd_configs(size, dtype)

        def get_flex_decode_configs(self, size: int, dtype: torch.dtype, device: str) -> Any:
            return known.get_flex_decode_configs(size, dtype)

    def choose(name: str, choices: list[Any], *_: Any, **__: Any) -> None:
        raise Chosen(name, choices)

    graph = SimpleNamespace(graph=SimpleNamespace(sizevars=Sizes()), choices=Choices())
    joint = SimpleNamespace(grad_input=None, captured_grads_compute=[], mutated_grads=[], captured_grads=[])
    replaced: dict[str, Callable[..., Any] | Any] = {
        "V": graph,
        "autotune_select_algorithm": choose,
        "maybe_realize": same,
        "freeze_irnodes": same,
        "create_placeholder": nothing,
        "build_subgraph_buffer": nothing,
        "infer_dense_strides": lambda size, _: [1] * len(size),
        "FixedLayout": nothing,
        "empty_strided": nothing,
        "empty": nothing,
        "set_head_dim_values": nothing,
        "validate_joint_graph": nothing,
        "process_joint_outputs": lambda *_: joint,
        "_use_flex_flash_attention": lambda *_, **__: False,
        "_use_flex_flash_attention_backward": lambda *_, **__: False,
        "flex_attention_template": Template(),
        "flex_attention_backward_template": Template(),
        "flex_decoding_template": Template(),
        "get_split_k": lambda *_: 8,
        "lowerings": dict.fromkeys(LOWERED, same),
        "ExternKernel": SimpleNamespace(require_contiguous=same),
        "ir": SimpleNamespace(ExternKernel=SimpleNamespace(realize_input=same)),
        "FlexibleLayout": SimpleNamespace(contiguous_strides=nothing),
    }
    for module in (flex_attention, flex_decoding):
        for name, value in replaced.items():
            if hasattr(module, name):
                patch.setattr(module, name, value)
    return flex_attention


def block_mask(tokens: int) -> tuple[Any, ...]:
    tiles = Standing(1, 1, 1, -(-tokens // BLOCKS), dtype=torch.int32)
    return (tokens, tokens, *[tiles] * 8, None, None, None, None, BLOCKS, BLOCKS, None)


def variants(
    patch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    heads: tuple[int, int],
    tokens: int,
    dtype: torch.dtype,
    options: dict[str, Any],
    size: int = 128,
) -> dict[str, int]:
    """How many kernels forward and backward may choose from; torch raises NoValidChoicesError at 0."""
    module = stand_in(patch, capability)
    asked = Standing(1, heads[0], tokens, size, dtype=dtype)
    seen = Standing(1, heads[1], tokens, size, dtype=dtype)
    graph = SimpleNamespace(graph_module=SimpleNamespace(graph=SimpleNamespace(eliminate_dead_code=nothing, nodes=[])))
    found = {}
    forward = (asked, seen, seen, graph, block_mask(tokens), 0.1, dict(options), [], [])
    backward = (
        asked,
        seen,
        seen,
        asked,
        asked,
        asked,
        None,
        graph,
        graph,
        block_mask(tokens),
        0.1,
        dict(options),
        [],
        [],
    )
    for function, arguments in ((module.flex_attention, forward), (module.flex_attention_backward, backward)):
        try:
            function(*arguments)
        except Chosen as chosen:
            name, choices = chosen.args
            found[name] = len(choices)
    return found
