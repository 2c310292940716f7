"""Working in somebody else's process: what a study changes there while it runs is as it was afterwards.

Processes of our own (`raydaa.own_process`) have nothing to give back.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any


def is_own_process() -> bool:
    """Whether this process is raydaa's, by what it imported first."""
    return "raydaa.own_process" in sys.modules


def let_threads_sleep() -> None:
    """A thread of GNU OpenMP's that waits looks for work 300,000 times before it sleeps, on a core that another process
    may need: beside one that has two threads everything here takes six times as long. Read when torch is loaded."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@contextlib.contextmanager
def as_guest() -> Iterator[None]:
    """Environment, log levels, signal handlers, torch's threads and warning filters come back at the end."""
    if is_own_process():
        yield
        return
    with contextlib.ExitStack() as kept:
        for keep in (_environment, _log_levels, _signals, _torch_threads):
            kept.enter_context(keep())
        kept.enter_context(warnings.catch_warnings())
        yield


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    let_threads_sleep()  # those of the workers that are started meanwhile
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _log_levels() -> Iterator[None]:
    """Of all loggers there are; those that libraries make when they are loaded get the libraries' own defaults."""
    root = logging.getLogger()
    known = {
        name: logger for name, logger in logging.root.manager.loggerDict.items() if isinstance(logger, logging.Logger)
    }
    before = {name: (logger.level, logger.propagate, logger.disabled) for name, logger in known.items()}
    level = root.level
    handlers = list(root.handlers)
    loaded = {"transformers", "optuna"} & set(sys.modules)
    bars = _progress_bars() if "transformers" in loaded else True
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
        _as_loaded({"transformers", "optuna"} & set(sys.modules) - loaded)
        for name, (own, propagate, disabled) in before.items():
            known[name].setLevel(own)
            known[name].propagate = propagate
            known[name].disabled = disabled
        if "transformers" in sys.modules:
            from transformers.utils import logging as hf_logging

            (hf_logging.enable_progress_bar if bars else hf_logging.disable_progress_bar)()


def _progress_bars() -> bool:
    from transformers.utils import logging as hf_logging

    return bool(hf_logging.is_progress_bar_enabled())


def _as_loaded(libraries: set[str]) -> None:
    """What they log by default."""
    if "transformers" in libraries:
        from transformers.utils import logging as hf_logging

        hf_logging.set_verbosity_warning()
    if "optuna" in libraries:
        sys.modules["optuna"].logging.set_verbosity(logging.INFO)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Python hears them in its main thread alone; elsewhere nobody changes them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        before[number] = signal.getsignal(number)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@contextlib.contextmanager
def _torch_threads() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
