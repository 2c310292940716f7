"""DeepSpeed 0.19."""

from typing import Any

from torch import Tensor


def compile_no_collectives(deepspeed: Any) -> None:
    """Collectives in shared memory are for inference on CPUs; without this every machine compiles them for 40 s."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def backward(engine: Any, loss: Tensor) -> None:
    """The gradients of ``loss`` as it is: whoever calls owns the accumulation boundary, and divides by nothing."""
    engine.backward(loss, scale_wrt_gas=False)


def whole_weights(engine: Any) -> dict[str, Tensor]:
    """Of a model that ZeRO 3 has spread; every rank calls it, and the first has them."""
    weights: dict[str, Tensor] = engine._zero3_consolidated_16bit_state_dict()
    return weights
