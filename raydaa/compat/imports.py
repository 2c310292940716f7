"""Which libraries are there, and what they import that nobody here uses, kept from being imported."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from importlib.util import find_spec

from raydaa.guest import is_own_process


def is_installed(name: str) -> bool:
    """Whether a package of that name can be imported; a mere folder of that name is none."""
    spec = find_spec(name)
    return spec is not None and spec.origin is not None


def quiet_transformers() -> None:
    """No progress bars of single loads: a sweep makes hundreds of them. Nor what nobody here uses of it."""
    with hiding("sklearn"):  # assisted generation imports it where it lies: a second of every process's start
        import transformers.generation.candidate_generator  # noqa: F401
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)


@contextlib.contextmanager
def hiding(package: str) -> Iterator[None]:
    """``package`` is not found, unless it was imported before, or this is somebody else's process: what is imported
    meanwhile would stay without it for good."""
    if package in sys.modules or not is_own_process():
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
