"""glibc's allocator, which Python has no words for."""

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Freed memory is reused: by default every large tensor goes back to the system, and comes back zeroed. Up to a
    tenth of a training step on a CPU."""
    for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
        _call("mallopt", option, 1 << 30)


def give_memory_back() -> None:
    """What was freed goes back to the system, from a process that lives on."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no such calls
        getattr(ctypes.CDLL(None), name)(*arguments)
