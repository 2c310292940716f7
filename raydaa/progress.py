"""What the terminal shows: raydaa's own lines. Everything else goes to the study's log."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from raydaa.store.records import ProgressRecord
from raydaa.store.study_folder import RecordFile


def duration(seconds: float) -> str:
    """``75`` → ``1m15s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


class Progress:
    """Prints stages and what they reach to ``terminal`` (a file descriptor, or a notebook's stream), with the time left
    where it is known."""

    def __init__(
        self, terminal: int | TextIO, interval: float = 2.0, latest: RecordFile[ProgressRecord] | None = None
    ) -> None:
        self.terminal = terminal
        self.latest = latest  # where other processes can read how far it is
        self.interval = interval
        self.begun = time.monotonic()
        self.stage = ""
        self.stage_begun = self.begun
        self.last = -interval

    def line(self, text: str, left: float | None = None) -> None:
        """One line, with the time since the start before it; ``left`` are the stage's seconds where they are known."""
        shown = f"[{duration(time.monotonic() - self.begun):>6}] {text}\n"
        if isinstance(self.terminal, int):
            os.write(self.terminal, shown.encode())
        else:
            self.terminal.write(shown)
            self.terminal.flush()
        if self.latest is not None:
            elapsed = time.monotonic() - self.stage_begun
            self.latest.write(ProgressRecord(self.stage, text, elapsed, left, time.time()))

    def start(self, stage: str, what: str) -> None:
        """A stage begins."""
        self.stage = stage
        self.stage_begun = time.monotonic()
        self.last = time.monotonic()
        self.line(f"{stage:<9} {what}")

    def update(self, done: float, total: float, what: str) -> None:
        """How far the stage is; printed at most every ``interval`` seconds."""
        now = time.monotonic()
        if now - self.last < self.interval or done <= 0:
            return
        self.last = now
        left = (now - self.stage_begun) * (total - done) / done
        self.line(f"{self.stage:<9} {what}, {duration(left)} left", left)

    def end(self, what: str) -> None:
        """The stage is over."""
        self.line(f"{self.stage:<9} {what} ({duration(time.monotonic() - self.stage_begun)})")


class _Handler(logging.Handler):
    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.WARNING)
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self.progress.line(record.getMessage())


@contextlib.contextmanager
def warned(progress: Progress) -> Iterator[None]:
    """Warnings of raydaa's own rooms are lines of ``progress``."""
    handler = _Handler(progress)
    logging.getLogger("raydaa").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("raydaa").removeHandler(handler)


@contextlib.contextmanager
def captured(log: Path) -> Iterator[int | TextIO]:
    """Send this process's output, C++ libraries' included, to ``log``; yields the real terminal, or what stands for it
    in a notebook."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    terminal, errors = os.dup(1), os.dup(2)
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.close(sink)
    notebook = None if sys.stdout is sys.__stdout__ else sys.stdout
    try:
        with contextlib.ExitStack() as streams:
            if notebook is not None:  # it reads no descriptors
                file = streams.enter_context(log.open("a", encoding="utf-8"))
                streams.enter_context(contextlib.redirect_stdout(file))
                streams.enter_context(contextlib.redirect_stderr(file))
            yield terminal if notebook is None else notebook
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # the log's disk may be full
                stream.flush()
        os.dup2(terminal, 1)
        os.dup2(errors, 2)
        os.close(terminal)
        os.close(errors)
