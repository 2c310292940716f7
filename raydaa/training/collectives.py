"""What the workers of a group tell each other; one alone is asked for nothing."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world_size() -> int:
    """Workers of this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This worker's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def whole_size(parameter: Tensor) -> int:
    """Elements of a parameter, also where ZeRO 3 has taken it apart."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape.numel()


def sum_over_workers(values: Tensor) -> Tensor:
    """Elementwise sum of a small tensor over all workers."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def most_of_workers(value: int, device: torch.device) -> int:
    """The largest of the workers' values."""
    if world_size() == 1:
        return value
    largest = torch.tensor(value, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def from_first(value: T) -> T:
    """The first worker's value, on all of them."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def from_all(value: T) -> list[T]:
    """Every worker's value, in their order, on all of them."""
    if world_size() == 1:
        return [value]
    box: list[Any] = [None] * world_size()
    dist.all_gather_object(box, value)
    return box
