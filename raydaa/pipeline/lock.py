"""One run at a time in a study folder."""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from raydaa.errors import InputError
from raydaa.store.artifacts import CHECKED
from raydaa.store.study_folder import StudyFolder


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Only one run in a study folder; InputError where it can't be written or another run holds it.

    False where the folder's file system knows no locks: then nobody can tell.
    """
    locks = True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = StudyFolder(folder).lock.open("w")
    except OSError as error:
        raise InputError(f"{folder}: can't be written: {error.strerror}; choose another with --output") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another run is at work in this study folder; wait for it") from None
        except OSError:  # as some network file systems answer
            locks = False
        for path in sorted(folder.rglob(".*")):
            if path.is_dir():  # half-written results of a run that was killed
                shutil.rmtree(path, ignore_errors=True)
            elif path.name not in (StudyFolder(folder).lock.name, CHECKED):
                path.unlink(missing_ok=True)
        yield locks
