"""A model ready to train, with its engine."""

import torch

from raydaa.training.engine import Engine, make_engine
from raydaa.training.lora import add_adapters
from raydaa.training.memory import Shape
from raydaa.training.model import Policy, load_model, without_dropout
from raydaa.training.probe import Way
from raydaa.training.spec import RunSpec
from raydaa.training.start_weights import StartWeights
from raydaa.training.zero import load_on_first, take_apart, way_on_first


def build(spec: RunSpec, device: torch.device, start: StartWeights | None = None) -> tuple[Policy, Engine, Shape]:
    """The model of ``spec`` ready to train. ``start`` spares loading where the process trained it before."""
    recipe = spec.recipe
    training = spec.recipe.training
    with_torch = not recipe.placement.sharded
    apart = recipe.placement.apart
    # DeepSpeed would cast as well, but only when all weights lie on every GPU.
    dtype = torch.bfloat16 if recipe.in_half else torch.float32
    # DeepSpeed takes a model apart and adapters stay in it: only plain weights can be put back.
    if start is not None and with_torch and training.lora is None:
        model = start.fresh(spec.start, recipe.trust_remote_code)
    else:
        model = (load_on_first if apart else load_model)(spec.start, dtype, recipe.trust_remote_code)
    if training.lora is not None:
        add_adapters(model, training.lora)
        if with_torch:  # no copy of theirs is float32: as coarse as the frozen weights they would not learn
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.data = weight.data.float()
    without_dropout(model)
    autocast = with_torch and training.precision == "bf16"
    attention: str | Way = training.attention
    if apart:
        attention = way_on_first(spec.start, dtype, autocast, training.attention, recipe.trust_remote_code)
        take_apart(model, recipe.in_half, recipe.placement.cpu_offload)
    policy = Policy(
        model,
        autocast,
        attention,
        device,
        chunk=recipe.head_chunk,
        checkpoint_layers=training.gradient_checkpointing,
        tokens=recipe.tokens if apart else None,
    )
    engine = make_engine(policy, recipe)
    policy.train()
    return policy, engine, Shape.of_model(model)
