"""Low-rank adapters: put in before training, added to the weights when a model is handed over."""

from typing import Any

from torch import Tensor, nn


def add_adapters(model: Any, lora: dict[str, Any]) -> None:
    """Freeze ``model`` and give it adapters, in place; B starts at 0, so nothing changes before the first step.

    ValueError where the model has no layers of the names asked for.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = list(lora["targets"])
    names = targets[0] if targets == ["all-linear"] else targets
    config = LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules=names, task_type="CAUSAL_LM")
    inject_adapter_in_model(config, model)
    for name, module in model.named_modules():
        base = getattr(module, "base_layer", None)
        if base is not None and not isinstance(base, nn.Linear):
            raise ValueError(f"training.lora: {name} is a {type(base).__name__}; only linear layers take adapters here")
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "lora_" in name


def merged(state: dict[str, Tensor], lora: dict[str, Any]) -> dict[str, Tensor]:
    """A state dict with adapters as one without: W + alpha / rank · B A under the model's own names."""
    scale, plain = lora["alpha"] / lora["rank"], {}
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
