"""Cards: what they hold and do, and what Ray calls them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

DRIVER = Path("/proc/driver/nvidia/version")


class Accelerator(NamedTuple):
    """What one card holds and does."""

    memory: float  # bytes
    rate: float  # dense bf16 operations a second


# By Ray's names. Ray itself calls an A100 of either size A100; the others stand in the configuration of a node.
ACCELERATORS = {
    "A100-40G": Accelerator(40e9, 312e12),
    "A100-80G": Accelerator(80e9, 312e12),
    "A100": Accelerator(40e9, 312e12),
    "H100": Accelerator(80e9, 989e12),
    "H200": Accelerator(141e9, 989e12),
    "L40S": Accelerator(48e9, 362e12),
    "L4": Accelerator(24e9, 121e12),
    "A10G": Accelerator(24e9, 70e12),
}


def rate_of(card: str) -> float | None:
    """Dense bf16 operations a second of a card by its maker's name; None where it is not known.

    An H100 is taken for the one with HBM3: that on a PCIe card has three quarters of it.
    """
    match = re.search(r"\b(A100|H100|H200|L40S|L4|A10G)\b", card)
    return ACCELERATORS[match[1]].rate if match else None


def has_gpus() -> bool:
    """Whether a driver for NVIDIA's GPUs is loaded here; whether torch can use them is another question."""
    return DRIVER.exists()


def name_there(wanted: str, there: Sequence[str]) -> str | None:
    """What nodes with the accelerators ``there`` call ``wanted``, with a size or without; None where none has it."""
    if wanted in there:
        return wanted
    kind, _, size = wanted.partition("-")
    return next((name for name in there if name == kind or (not size and name.partition("-")[0] == kind)), None)
