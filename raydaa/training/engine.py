"""How gradients become steps: plain torch, or DeepSpeed with ZeRO. Both give the same losses.

The loop hands an engine losses that are already divided by the global batch, so gradients are *summed* over
micro-batches and workers; nothing here averages.
"""

from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raydaa.compat.deepspeed import backward, whole_weights
from raydaa.training.collectives import rank, whole_size, world_size
from raydaa.training.spec import PLAIN, SHARDED, Recipe

SMALL = 1 << 22  # parameters; below it DeepSpeed's buckets are mostly empty


class Engine(Protocol):
    """What the loop needs of an engine."""

    module: nn.Module
    frees_itself: ClassVar[bool]  # without a collection, which takes half a second

    @property
    def checkpoint_format(self) -> list[Any]:
        """Who can read what it saves."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss`` to those of this step."""

    def step(self, learning_rate: float) -> float:
        """Clip, update and clear; returns the gradient's norm before clipping."""

    def save(self, folder: Path) -> None:
        """Write this worker's share of weights and optimizer state."""

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote."""

    def weights(self) -> dict[str, Tensor] | None:
        """Full weights on the first worker, None on the others; every worker must call it."""

    def close(self) -> None:
        """Give the memory back."""


def _adamw(module: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        [p for p in module.parameters() if p.requires_grad],
        lr=recipe.learning_rate,
        betas=(recipe.training.adam_betas[0], recipe.training.adam_betas[1]),
        weight_decay=recipe.training.weight_decay,
        fused=True,
    )


class TorchEngine:
    """AdamW on full weights in every worker; gradients summed over workers at the step."""

    frees_itself: ClassVar[bool] = True

    @property
    def checkpoint_format(self) -> list[Any]:
        return [PLAIN, 0]

    def __init__(self, policy: nn.Module, recipe: Recipe) -> None:
        self.module = policy
        self.max_grad_norm = recipe.training.max_grad_norm
        self.optimizer = _adamw(policy, recipe)
        self.parameters = [p for p in policy.parameters() if p.requires_grad]

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, learning_rate: float) -> float:
        if world_size() > 1:
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
            flat = torch.cat([g.reshape(-1) for g in gradients])
            dist.all_reduce(flat)
            for parameter, piece in zip(self.parameters, flat.split([p.numel() for p in self.parameters]), strict=True):
                parameter.grad = piece.view_as(parameter)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def save(self, folder: Path) -> None:
        if rank() == 0:
            state = {"model": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
            torch.save(state, folder / "engine.pt")

    def load(self, folder: Path) -> None:
        state = torch.load(folder / "engine.pt", map_location="cpu", weights_only=True)
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def weights(self) -> dict[str, Tensor] | None:
        return self.module.state_dict() if rank() == 0 else None

    def close(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.parameters = []


class DeepSpeedEngine:
    """ZeRO stages 0 to 3. The caller owns the accumulation boundary, so no micro-batch count is fixed."""

    frees_itself: ClassVar[bool] = False  # its hooks and the module hold each other

    @property
    def checkpoint_format(self) -> list[Any]:
        return [SHARDED, self.stage]

    def __init__(self, policy: nn.Module, recipe: Recipe) -> None:
        from raydaa.training.zero import deepspeed_here, zero_config

        deepspeed = deepspeed_here()
        self.stage = recipe.placement.zero_stage
        config = zero_config(self.stage, recipe.training.precision == "bf16", recipe.placement.cpu_offload)
        config["gradient_clipping"] = recipe.training.max_grad_norm if self.stage else 0.0
        if sum(whole_size(p) for p in policy.parameters()) < SMALL:
            config["zero_optimization"] |= {"reduce_bucket_size": SMALL, "allgather_bucket_size": SMALL}
        optimizer = _adamw(policy, recipe)
        self.engine, *_ = deepspeed.initialize(model=policy, optimizer=optimizer, config=config)
        self.module = self.engine
        self.workers = world_size()
        self.norm: Any = None
        if not recipe.placement.zero_stage:
            # Without ZeRO DeepSpeed clips but keeps the norm to itself: clip where it steps, and note it.
            parameters = [p for p in policy.parameters() if p.requires_grad]

            def clip(*_: Any) -> None:
                self.norm = nn.utils.clip_grad_norm_(parameters, recipe.training.max_grad_norm)

            optimizer.register_step_pre_hook(clip)

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed averages gradients over workers; ours are shares of one sum.
        backward(self.engine, loss * self.workers)

    def step(self, learning_rate: float) -> float:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self.engine.step()
        return float(self.engine.get_global_grad_norm() if self.stage else self.norm)

    def save(self, folder: Path) -> None:
        self.engine.save_checkpoint(str(folder), tag="engine")

    def load(self, folder: Path) -> None:
        path, _ = self.engine.load_checkpoint(str(folder), tag="engine")
        if path is None:
            raise RuntimeError(f"{folder}: DeepSpeed found no checkpoint")

    def weights(self) -> dict[str, Tensor] | None:
        state = whole_weights(self.engine) if self.stage == 3 else self.engine.module.state_dict()
        return state if rank() == 0 else None

    def close(self) -> None:
        self.engine.destroy()


def make_engine(policy: nn.Module, recipe: Recipe) -> Engine:
    """The engine that ``recipe.placement.engine`` names."""
    return DeepSpeedEngine(policy, recipe) if recipe.placement.sharded else TorchEngine(policy, recipe)
