"""What a step makes of the machine: the share of a card's peak, of padding, and of memory."""

from typing import Any

import numpy as np
import torch

from raydaa.accelerators import rate_of
from raydaa.data.packing import ExampleTable, PairTable
from raydaa.training.collectives import world_size
from raydaa.training.memory import Shape
from raydaa.training.model import Policy

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")  # of which a token meets a few


class Meter:
    """``begin`` before a step, ``read`` after it."""

    def __init__(self, shape: Shape, policy: Policy, device: torch.device) -> None:
        self.shape = shape
        self.policy = policy
        self.on_gpu = device.type == "cuda"
        config = policy.model.config.get_text_config()
        dense = not any(getattr(config, name, None) for name in EXPERTS)
        self.rate = rate_of(torch.cuda.get_device_name(device)) if self.on_gpu and dense else None

    def begin(self) -> None:
        """Forget earlier steps."""
        self.policy.laid_out = self.policy.padding = 0
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()

    def read(self, table: PairTable | ExampleTable, rows: np.ndarray, seconds: float) -> dict[str, Any]:
        """``attention``; ``padding``, the share of the tokens of this worker's rows; on a GPU ``peak_memory`` in bytes,
        and ``mfu``: the operations that ``rows`` take at the least, over what the workers' cards could have done."""
        laid_out = max(1, self.policy.laid_out)
        figures: dict[str, Any] = {"attention": self.policy.attention, "padding": self.policy.padding / laid_out}
        if self.on_gpu:
            figures["peak_memory"] = torch.cuda.max_memory_allocated()
        if self.rate is not None:
            work = table.work(rows)
            operations = self.shape.flops(work.tokens, work.scored, work.cells)
            figures["mfu"] = operations / (seconds * world_size() * self.rate)
        return figures
