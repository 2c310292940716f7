"""DeepSpeed: states and weights spread over the workers, for training and for scoring by models no GPU holds whole."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from raydaa.compat.deepspeed import compile_no_collectives
from raydaa.compat.imports import hiding
from raydaa.training.collectives import from_first, rank
from raydaa.training.device import device_of_worker
from raydaa.training.model import Policy, load_few_layers, load_model, named_attention
from raydaa.training.probe import PADDED, ArchitectureError, Way, find_way


def deepspeed_here() -> Any:
    """The library, ready to be asked."""
    with hiding("mlflow"):  # what DeepSpeed could report to takes most of its import
        import deepspeed

    if not dist.is_initialized():
        _alone()
    compile_no_collectives(deepspeed)
    return deepspeed


def _alone() -> None:
    """What DeepSpeed asks of its surroundings where Ray Train has not set it: a group of one process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(group)


def zero_config(stage: int, half: bool, cpu_offload: bool = False) -> dict[str, Any]:
    """DeepSpeed's configuration."""
    zero: dict[str, Any] = {"stage": stage}
    if stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if cpu_offload:
        zero["offload_optimizer"] = {"device": "cpu"}
        if stage == 3:
            zero["offload_param"] = {"device": "cpu"}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # required by DeepSpeed; rows are counted by the packer
        "managed_gradient_accumulation": False,
        "bf16": {"enabled": half},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW needs no C++ build, on a CPU either
        "steps_per_print": 1 << 30,
    }
    if half and stage:
        # Sums of micro-batches in bf16 would depend on how many there are.
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def load_on_first(source: str, dtype: torch.dtype, trust_remote_code: bool = False) -> Any:
    """A model on the CPU, with its weights on the first worker alone: `take_apart` hands them out.

    Elsewhere nothing is written to the memory that its weights would take, so no machine provides it.
    """
    if rank() == 0:
        return load_model(source, dtype, trust_remote_code)
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code).eval()
    model.config.use_cache = False
    return model


def way_on_first(source: str, dtype: torch.dtype, autocast: bool, attention: str, trust_remote_code: bool) -> Way:
    """How a model that will be taken apart is asked: the first worker tries it on the first layers, all do the same.

    ArchitectureError, on all of them, where there is no way.
    """
    outcome: Way | ArchitectureError | None = None
    if rank() == 0:
        layers = load_few_layers(Path(source), dtype, trust_remote_code)
        policy = Policy(layers, autocast, Way(PADDED), device_of_worker())
        try:
            outcome = find_way(policy, named_attention(attention, layers), alone=True)
        except ArchitectureError as error:
            outcome = error
    outcome = from_first(outcome)
    if not isinstance(outcome, Way):
        raise outcome or ArchitectureError(f"{source} was not looked at")
    return outcome


def take_apart(model: Any, half: bool, cpu_offload: bool = False) -> None:
    """Spread the first worker's weights over all of them, tensor by tensor: no GPU ever holds the model whole.

    Not by what transformers has for it: that rounds buffers to bf16, frequencies of rotary positions among them.
    """
    parameters = dict(model.named_parameters())
    buffers = dict(model.named_buffers())
    for name, (shape, dtype) in from_first({name: (p.shape, p.dtype) for name, p in parameters.items()}).items():
        if name not in parameters or parameters[name].shape != shape:
            raise ValueError(f"{type(model).__name__} has another {name} in its files than by its configuration")
        parameters[name].data = parameters[name].data.to(dtype)
    for name, values in from_first(buffers).items():
        buffers[name].data = values
    deepspeed_here().zero.Init(module=model, config_dict_or_path=zero_config(3, half, cpu_offload))


@contextlib.contextmanager
def gathering(policy: nn.Module, half: bool, cpu_offload: bool = False) -> Iterator[None]:
    """Inside, a model that was taken apart puts each layer's weights together where it needs them. It is not trained.

    All workers must ask it equally often.
    """
    engine, *_ = deepspeed_here().initialize(model=policy, config=zero_config(3, half, cpu_offload))
    try:
        yield
    finally:
        engine.destroy()
