"""How many tokens a micro-batch may have: measured on the GPUs that train."""

import re

import numpy as np
import torch

from raydaa.data.packing import PackedBatch, pack_responses
from raydaa.training.build import build
from raydaa.training.collectives import rank, world_size
from raydaa.training.device import device_of_worker
from raydaa.training.engine import Engine
from raydaa.training.model import Policy
from raydaa.training.spec import RunSpec

SHARE = 0.85  # of the device's memory; the rest is for fragments and for rows longer than those tried
STEP = 256
OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|_ALLOC_FAILED|\bMemoryError\b")


def fitted(sizes: tuple[int, int], peaks: tuple[int, int], available: int) -> int:
    """The tokens whose peak memory is ``available`` bytes, from the peaks of two sizes; at least the smaller size."""
    slope = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
    if slope <= 0:
        return sizes[1]
    tokens = sizes[0] + (available - peaks[0]) / slope
    return max(sizes[0], int(tokens) // STEP * STEP)


def measure(spec: RunSpec, longest: int, share: float) -> int:
    """Tokens per micro-batch for runs like ``spec`` on this worker's ``share`` of a GPU; the least of all workers.

    Optimizer steps on random tokens, with rows of ``longest`` tokens, tell fixed memory from that of each token.
    """
    device = device_of_worker()
    policy, engine, _ = build(spec, device)
    try:
        sizes = (longest, 2 * longest)
        # Once before measuring: the optimizer's states come into being at the first step.
        peaks = [_peak(policy, engine, size, longest) for size in (longest, *sizes)][1:]
        total = torch.cuda.get_device_properties(device).total_memory
        tokens = torch.tensor(fitted(sizes, (peaks[0], peaks[1]), int(SHARE * share * total)), device=device)
        if world_size() > 1:
            torch.distributed.all_reduce(tokens, torch.distributed.ReduceOp.MIN)
        return int(tokens)
    finally:
        engine.close()


def _peak(policy: Policy, engine: Engine, tokens: int, longest: int) -> int:
    torch.cuda.reset_peak_memory_stats()
    if policy.calls is not None:
        policy.keep_in_step(tokens)
    vocabulary = policy.model.config.get_text_config().vocab_size
    batch = random_batch(vocabulary, tokens, longest).to(device_of_worker())
    engine.backward(engine.module(batch).mean())
    engine.step(0.0)
    return int(torch.cuda.max_memory_allocated())


def random_batch(vocabulary: int, tokens: int, longest: int) -> PackedBatch:
    """Prompts with one response each, about half of every row, ``tokens`` in all."""
    generator = np.random.default_rng(rank())
    sizes = [min(longest, tokens - first) for first in range(0, tokens, longest)]

    def draw(size: int) -> np.ndarray:
        return generator.integers(0, vocabulary, max(1, size))

    return pack_responses([(draw(size // 2), [draw(size - size // 2)], True) for size in sizes])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error``, as raised or as Ray wrapped it, says that a smaller micro-batch would have found room.

    CUDA, cuBLAS and NCCL each have words of their own. Not where Ray ended a process because its machine ran low on
    memory: that is the work of all that run there, and passes.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = f"{type(error).__module__}.{type(error).__name__}: {error}"
    return "ray.exceptions.OutOfMemoryError" not in text and OUT_OF_MEMORY.search(text) is not None
