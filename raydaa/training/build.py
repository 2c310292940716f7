"""A model ready to train, with its engine."""

import torch

from raydaa.training.engine import Engine, make_engine
from raydaa.training.lora import add_adapters
from raydaa.training.memory import Shape
from raydaa.training.model import Policy, StartWeights, load_model, without_dropout
from raydaa.training.spec import RunSpec
from raydaa.training.zero import load_on_first, take_apart


def build(spec: RunSpec, device: torch.device, start: StartWeights | None = None) -> tuple[Policy, Engine, Shape]:
    """The model of ``spec`` ready to train. ``start`` spares loading where the process trained it before."""
    with_torch, apart = spec.engine == "torch", spec.engine == "deepspeed" and spec.zero_stage == 3
    # DeepSpeed takes a model apart and adapters stay in it: only plain weights can be put back.
    if start is not None and with_torch and spec.lora is None:
        model = start.fresh(spec.start, spec.trust_remote_code)
    else:
        # DeepSpeed would cast as well, but only when all weights lie on every GPU.
        dtype = torch.bfloat16 if spec.in_half else torch.float32
        model = (load_on_first if apart else load_model)(spec.start, dtype, spec.trust_remote_code)
    if spec.lora is not None:
        add_adapters(model, spec.lora)
        if with_torch:  # no copy of theirs is float32: as coarse as the frozen weights they would not learn
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.data = weight.data.float()
    without_dropout(model)
    if apart:
        take_apart(model, spec.in_half, spec.cpu_offload)
    policy = Policy(model, with_torch and spec.precision == "bf16", None if apart else spec.attention, device)
    policy.chunk = spec.head_chunk or policy.chunk
    policy.checkpoint_layers(spec.gradient_checkpointing)
    engine = make_engine(policy, spec)
    if apart:  # only the engine can put its weights together
        policy.choose(spec.attention)
        policy.keep_in_step(spec.tokens_per_microbatch)
    policy.train()
    return policy, engine, Shape.of_model(model)
