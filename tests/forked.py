"""The command line, forked off a process that has imported its libraries: a session of tests runs it dozens of times,
and importing takes ten seconds of a core."""

import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.forked_imports"])


class _Fresh:
    """An interpreter of its own, as much of `multiprocessing.Process` as is used here."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], output: int, errors: int
    ) -> None:
        command = [sys.executable, "-m", "raydaa", *arguments]
        self._process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=errors)
        self.pid, self.kill = self._process.pid, self._process.kill

    @property
    def exitcode(self) -> int | None:
        return self._process.poll()

    def join(self, timeout: float | None = None) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)


class Forked:
    """``raydaa`` with ``arguments``, and as much of `subprocess.Popen` as the tests use."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], output: int, errors: int
    ) -> None:
        """``output`` and ``errors`` are file descriptors, which the process gets copies of."""
        self.arguments = arguments
        self._process: Any
        if os.environ.get("RAYDAA_TEST_FORK") == "0":  # an odd failure may be a fork's
            self._process = _Fresh(arguments, folder, environment, output, errors)
            return
        streams = [Connection(os.dup(number), readable=False) for number in (output, errors)]
        self._process = _CONTEXT.Process(target=_run, args=(arguments, folder, dict(environment), streams))
        self._process.start()
        for stream in streams:
            stream.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status; after ``timeout`` seconds the process is killed, so that nothing stays behind."""
        self._process.join(timeout)
        if self.returncode is None:
            self._process.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(["raydaa", *self.arguments], timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Piped(Forked):
    """With what it prints in a pipe."""

    def __init__(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        reads, writes = os.pipe()
        self.stdout = os.fdopen(reads, encoding="utf-8")
        super().__init__(arguments, folder, environment, writes, writes)
        os.close(writes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        self.wait()

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        with ThreadPoolExecutor(1) as side:
            output = side.submit(self.stdout.read)
            self.wait(timeout)
            return output.result(), None


def _run(arguments: Sequence[str], folder: Path, environment: dict[str, str], streams: list[Any]) -> None:
    """In the fork: what Python and the shell would have set up."""
    from ray._raylet import Config

    from raydaa.cli import process

    for number, stream in enumerate(streams, start=1):
        os.dup2(stream.fileno(), number)
        stream.close()
    os.environ.clear()
    os.environ.update(environment)
    Config.initialize("")  # Ray reads its part of the environment where it is imported
    os.chdir(folder)
    sys.argv, sys.path[0] = ["raydaa", *arguments], ""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.freeze()  # what is shared is not looked through, which would copy it
    process()
