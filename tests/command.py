"""The command line in a process of its own, with its own Ray folder and cache."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tests.forked import Forked, Piped

Found = TypeVar("Found")
Started = subprocess.Popen[str] | Piped
# Runs what it is given after it as Python, listening to SIGINT: below a shell's background job that would be ignored.
LISTENING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "


def wait_for(seen: Callable[[], Found], process: Started, seconds: float = 200) -> Found:
    """What ``seen`` finds as soon as it finds anything; AssertionError, with the output, where ``process`` ends."""
    deadline = time.monotonic() + seconds
    while not (found := seen()):
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}: {process.communicate()[0]}")
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


class Command:
    """Runs ``raydaa`` with everything it starts marked by a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # Sockets have short names only: Ray's folder can't lie below pytest's.
        self.ray = Path("/tmp") / f"rd{os.getpid()}-{abs(hash(str(folder))) % 10**8}"
        self.ray.mkdir(exist_ok=True)
        self.environment = {
            **os.environ,
            "RAY_TMPDIR": str(self.ray),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "HF_HUB_OFFLINE": "1",
        }

    def run(self, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """To the end, with output captured."""
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            files = (output.fileno(), errors.fileno())
            code = Forked(arguments, self.folder, self.environment, *files).wait(timeout)
            output.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(["raydaa", *arguments], code, output.read(), errors.read())

    def start(self, *arguments: str) -> Started:
        """The command on its way, its output in a pipe."""
        return Piped(arguments, self.folder, self.environment)

    def start_anew(self, *arguments: str) -> subprocess.Popen[str]:
        """Like `start`, in a Python that imports for itself, as a user's does."""
        return self.start_code("from raydaa.cli import process; process()", *arguments)

    def start_code(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        """Python of somebody else's, its output in a pipe."""
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        command = [sys.executable, "-c", LISTENING + code, *arguments]
        return subprocess.Popen(command, env=self.environment, text=True, cwd=self.folder, **pipes)

    def kill_at(
        self,
        sign: str,
        *arguments: str,
        number: int = signal.SIGKILL,
        before: Callable[[Started], object] = lambda process: None,
        timeout: float = 300,
    ) -> str:
        """Start, wait until a line of the output holds ``sign``, do ``before``, send the signal; returns the output."""
        lines: list[str] = []
        with self.start(*arguments) as process:
            deadline = time.monotonic() + timeout
            for line in process.stdout:
                lines.append(line)
                if sign in line or time.monotonic() > deadline:
                    before(process)
                    process.send_signal(number)
                    break
            lines.append(process.stdout.read())
            process.wait(60)
        text = "".join(lines)
        assert sign in text, text
        return text

    def kill_some(self, titles: Sequence[str], *arguments: str, timeout: float = 300) -> str:
        """Run to the end; returns the output.

        For each of ``titles`` in turn, the first process of its own whose title begins so is sent SIGKILL.
        """
        with self.start(*arguments) as process:
            for title in titles:
                victims = partial(self.named, title)
                os.kill(wait_for(victims, process, timeout)[0], signal.SIGKILL)
            output, _ = process.communicate(timeout=timeout)
        assert process.returncode == 0, output
        return output

    def named(self, title: str) -> list[int]:
        """Numbers of the living processes whose title begins so."""
        return [pid for pid, name in self.processes().items() if name.startswith(title)]

    def processes(self) -> dict[int, str]:
        """Living processes of this command: number and title. They work below its two folders, and nobody else does."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                place = (entry / "cwd").readlink()
                if place.is_relative_to(self.folder) or place.is_relative_to(self.ray):
                    title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                    found[int(entry.name)] = title[:120]
            except OSError:
                continue
        return found

    def wait_until_gone(self, seconds: float = 60) -> dict[int, str]:
        """What is still at work after at most ``seconds``; if nothing is, Ray's folder goes too.

        Ray's agents notice a killed raylet in their own time and do nothing until then: they are ended here.
        """
        deadline = time.monotonic() + seconds
        while True:
            left = self.processes()
            busy = {pid: title for pid, title in left.items() if not title.endswith("Agent") and title}
            if not busy or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        for pid in left.keys() - busy.keys():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not busy:
            shutil.rmtree(self.ray, ignore_errors=True)
        return busy
