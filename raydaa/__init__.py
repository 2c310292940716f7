"""raydaa: which alignment loss, which β, which learning rate — answered by one study file.

The public names below load their modules on first use, so ``import raydaa`` itself costs nothing.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from raydaa.version import __version__

if TYPE_CHECKING:  # what `__getattr__` finds
    from raydaa.algorithms.catalog import loss
    from raydaa.algorithms.logprobs import PairLogps
    from raydaa.algorithms.method import LossOutput, Method
    from raydaa.algorithms.objective import Objective
    from raydaa.errors import InputError, RaydaaError
    from raydaa.generation.server import serve
    from raydaa.pipeline.study import Study
    from raydaa.reporting.results import TrialResults

if "RAY_RAYLET_PID" in os.environ:  # a worker of Ray's, which has no other guest
    import raydaa.own_process  # noqa: F401

_HOMES = {
    "InputError": "raydaa.errors",
    "LossOutput": "raydaa.algorithms.method",
    "Method": "raydaa.algorithms.method",
    "Objective": "raydaa.algorithms.objective",
    "PairLogps": "raydaa.algorithms.logprobs",
    "RaydaaError": "raydaa.errors",
    "Study": "raydaa.pipeline.study",
    "TrialResults": "raydaa.reporting.results",
    "loss": "raydaa.algorithms.catalog",
    "serve": "raydaa.generation.server",
}

__all__ = [
    "InputError",
    "LossOutput",
    "Method",
    "Objective",
    "PairLogps",
    "RaydaaError",
    "Study",
    "TrialResults",
    "__version__",
    "loss",
    "serve",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'raydaa' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
