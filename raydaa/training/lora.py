"""Low-rank adapters: put in before training, added to the weights when a model is handed over."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from raydaa.settings.training import LoraSettings

ALL_LINEAR = "all-linear"


def add_adapters(model: Any, lora: LoraSettings) -> None:
    """Freeze ``model`` and give it adapters of its own dtype, in place; B starts at 0, so nothing changes before the
    first step.

    ValueError as by `adapted_layers`.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    layers = adapted_layers(model, lora.targets)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=layers, task_type="CAUSAL_LM")
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "lora_" in name
    for module in model.modules():
        if isinstance(module, LoraLayer):  # what is of another dtype is cast by autocast, which copies nothing twice
            module.cast_input_dtype_enabled = False


def adapted_layers(model: Any, targets: Sequence[str]) -> list[str]:
    """Names of the layers that take adapters: those that ``targets`` name, or end with; for "all-linear" every linear
    layer but the head.

    ValueError where there are none, where one is not linear, or where it shares its weight with another layer: what
    was added to it could not be handed over without changing that one as well.
    """
    head = model.get_output_embeddings()
    layers = {name: module for name, module in model.named_modules() if name}
    if list(targets) == [ALL_LINEAR]:
        linear = {name: m for name, m in layers.items() if isinstance(m, nn.Linear) and m is not head}
    else:
        ends = tuple(f".{target}" for target in targets)
        linear = {name: m for name, m in layers.items() if f".{name}".endswith(ends)}
    if not linear:
        kinds = sorted({type(m).__name__ for m in layers.values() if any(p.dim() > 1 for p in m.parameters(False))})
        raise ValueError(f"no linear layer is named {', '.join(targets)}; the model has {', '.join(kinds)}")
    owners: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners[id(parameter)].append(name)
    for name, module in linear.items():
        if not isinstance(module, nn.Linear):
            raise ValueError(f"{name} is a {type(module).__name__}; only linear layers take adapters here")
        others = [other for other in owners[id(module.weight)] if other != f"{name}.weight"]
        if others:
            raise ValueError(f"{name} shares its weight with {others[0]}; leave it out")
    return list(linear)


def merged(state: dict[str, Tensor], lora: LoraSettings) -> dict[str, Tensor]:
    """A state dict with adapters as one without: W + alpha / rank · B A under the model's own names."""
    scale = lora.alpha / lora.rank
    plain = {}
    for name, tensor in state.items():
        if "lora_" in name:
            continue
        if name.endswith(".base_layer.weight"):
            stem = name.removesuffix("base_layer.weight")
            down, up = (state[f"{stem}lora_{side}.default.weight"].float() for side in "AB")
            plain[f"{stem}weight"] = (tensor.float() + scale * (up @ down)).to(tensor.dtype)
        else:
            plain[name.replace(".base_layer.", ".")] = tensor
    return plain
