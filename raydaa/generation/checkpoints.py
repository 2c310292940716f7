"""What two checkpoints must have in common before the weights of one may take the place of the other's."""

from pathlib import Path
from typing import Any

from raydaa.store.artifacts import read_json

NOTES = ("transformers_version", "_name_or_path", "use_cache", "dtype", "torch_dtype")  # change nothing


def tensors_of(folder: Path) -> dict[str, list[int]]:
    """Name and shape of every tensor of a checkpoint, from the safetensors headers alone."""
    from safetensors import safe_open

    shapes: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            shapes |= {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes


def architecture_of(folder: Path) -> Any:
    """Configuration (notes aside), tensor names and shapes; ValueError where ``folder`` is no checkpoint."""
    config = read_json(folder / "config.json")
    if config is None:
        raise ValueError(f"{folder}: is not a checkpoint (no config.json)")
    return {k: v for k, v in config.items() if k not in NOTES}, tensors_of(folder)
