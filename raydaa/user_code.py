"""Code of the user's own that a study file names as ``module:name``. Ask whether it may run before it is imported."""

import hashlib
import importlib
import inspect
import sys
from collections.abc import Iterable
from typing import Any

from raydaa.errors import first_line


def imported(name: str) -> Any:
    """What ``module:name`` names; ValueError, in one line, where it can't be imported."""
    module, _, path = name.partition(":")
    try:
        value: Any = importlib.import_module(module)
        for part in path.split("."):
            value = getattr(value, part)
    except Exception as error:  # the module is someone else's code: it may raise anything
        raise ValueError(f"{name!r} can't be imported: {first_line(error)}") from None
    return value


def source_hash(name: str, parts: Iterable[Any]) -> str:
    """Identity of the code of ``parts`` (classes or functions): the source of the modules that define them.

    What was typed into a script or notebook counts alone. ValueError, for ``name``, where no source can be read.
    """
    parts = list(parts)
    interactive = [part for part in parts if part.__module__ == "__main__"]
    modules = {part.__module__: sys.modules[part.__module__] for part in parts if part not in interactive}
    try:
        sources = [*map(inspect.getsource, interactive), *map(inspect.getsource, modules.values())]
    except (OSError, TypeError):
        raise ValueError(f"{name!r}: its source can't be read; put it into a file") from None
    return hashlib.sha256("\n".join(sources).encode()).hexdigest()[:16]
