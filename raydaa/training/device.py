"""The device of a process."""

import sys

import torch

from raydaa.accelerators import DRIVER
from raydaa.errors import MachineError, first_line


def device_of_worker() -> torch.device:
    """The accelerator this process may use, else the CPU; MachineError where Ray gave it one that can't be used.

    It would train on the CPU instead, for months.
    """
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if device := _given():
        raise MachineError(f"this process was given GPU {', '.join(map(str, device))} and can't use it: {_reason()}")
    return torch.device("cpu")


def card_memory() -> int:
    """Bytes of the card that this process was given."""
    return int(torch.cuda.get_device_properties(device_of_worker()).total_memory)


def _given() -> list[str]:
    """The GPUs that Ray has for this process alone."""
    ray = sys.modules.get("ray")  # a process that Ray started has it
    if ray is None or not ray.is_initialized():
        return []
    return list(ray.get_runtime_context().get_accelerator_ids().get("GPU", []))


def _reason() -> str:
    built = f"torch {torch.__version__} was built for CUDA {torch.version.cuda}"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    if not DRIVER.exists():
        return f"{built}, and no NVIDIA driver is loaded"
    driver = next((word for word in DRIVER.read_text().split() if word[:1].isdigit()), "unknown")
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return f"{built}, the driver is {driver}: {first_line(error)}"
    return f"{built}, the driver is {driver}"
