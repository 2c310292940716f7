"""What libraries import that nobody here uses, kept from being imported."""

import contextlib
import logging
import sys
from collections.abc import Iterator


def quiet_transformers() -> None:
    """No progress bars of single loads: a sweep makes hundreds of them. Nor what nobody here uses of it."""
    with hiding("sklearn"):  # assisted generation imports it where it lies: a second of every process's start
        import transformers.generation.candidate_generator  # noqa: F401
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)


@contextlib.contextmanager
def hiding(package: str) -> Iterator[None]:
    """``package`` is not found, unless it was imported before."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
