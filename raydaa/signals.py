"""Signals, and what a main thread that waits must hear all the same."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from types import FrameType
from typing import Any


@contextlib.contextmanager
def heard_after(started: Future[None]) -> Iterator[None]:
    """Interrupts wait until ``started`` is over.

    One that meets an import while another thread imports as well can leave Python's import lock taken for good.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in before.items() if callable(handler)}
    early: set[int] = set()

    def hear(number: int, frame: FrameType | None) -> None:
        early.add(number)
        if started.done():
            handlers[signal.Signals(number)](number, frame)

    def over(_: Future[None]) -> None:
        for number in early:
            signal.pthread_kill(threading.main_thread().ident or 0, number)

    with handled(dict.fromkeys(handlers, hear)):
        started.add_done_callback(over)
        yield


@contextlib.contextmanager
def handled(handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], Any]]) -> Iterator[None]:
    """Signals go to these handlers until the end of the block."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def looking(look: Callable[[], None], seconds: float) -> Iterator[None]:
    """Calls ``look`` in a thread every so many seconds, for a driver that waits for its workers."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(seconds):
            look()

    watcher = threading.Thread(target=repeat, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def hear_terminate_as_interrupt() -> None:
    """SIGTERM is Ctrl-C, as where a machine is about to be taken away; and an interrupt is never lost."""
    sys.unraisablehook = _raise_again
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _raise_again(lost: Any) -> None:
    """An interrupt that arrived while garbage was collected, where Python drops whatever is raised, comes again."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        main = threading.main_thread().ident or 0
        threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(lost)
