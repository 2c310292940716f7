"""Ctrl-C is neither lost nor heard where it would do harm."""

import signal
import subprocess
import sys
import time
from concurrent.futures import Future

import pytest

from raydaa.signals import heard_after
from tests.command import LISTENING

COLLECTED = """
import os, sys, time
from raydaa.signals import hear_terminate_as_interrupt

class Collected:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

hear_terminate_as_interrupt()
try:
    Collected()
    print("lost")
    time.sleep(30)
except KeyboardInterrupt:
    print("heard")
"""


def test_an_interrupt_while_garbage_is_collected_comes_again() -> None:
    """Python drops what is raised there."""
    begun = time.monotonic()
    code = [sys.executable, "-c", LISTENING + COLLECTED]
    done = subprocess.run(code, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("lost\nheard\n", "")
    assert time.monotonic() - begun < 20


def test_an_interrupt_waits_for_rays_start() -> None:
    started: Future[None] = Future()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background ignores it
    with heard_after(started):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            started.set_result(None)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler
