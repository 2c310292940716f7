"""Waiting for what may not run in the thread that asks."""

import asyncio
import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def in_thread(function: Callable[..., T], *arguments: Any, interrupted: bool = False) -> T:
    """What ``function(*arguments)`` returns or raises, from a thread of its own.

    After Ctrl-C nobody waits for it; ``interrupted``: it is interrupted as well.
    """
    outcome: Future[T] = Future()

    def call() -> None:
        try:
            outcome.set_result(function(*arguments))
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    try:
        return outcome.result()
    except KeyboardInterrupt:
        if interrupted and thread.ident is not None:
            error = ctypes.py_object(KeyboardInterrupt)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), error)
        raise


def outside_event_loop(function: Callable[..., T], *arguments: Any) -> T:
    """`in_thread` where an event loop runs in this one, as in a notebook; else here."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return function(*arguments)
    return in_thread(function, *arguments, interrupted=True)
