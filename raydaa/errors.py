"""Failures by who can mend them: the user, nobody on this machine, or the same command when it is given again."""

import errno
import re

# Of Ray: a process, a machine or what lay in its memory is gone. By name: nobody imports Ray to read an error.
LOST = {
    "ActorDiedError",
    "ActorUnavailableError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "ObjectLostError",
    "OwnerDiedError",
    "RayActorError",
    "RaySystemError",
    "RpcError",
    "WorkerCrashedError",
    "WorkerGroupStartupTimeoutError",
    "WorkerHealthCheckTimeoutError",
}
ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE}


class RaydaaError(Exception):
    """All errors of raydaa's own."""


class InputError(RaydaaError, ValueError):
    """The user's input can't be used; the message is one line that says where, what and how to mend it."""


class MachineError(RaydaaError, RuntimeError):
    """A machine can't do what every trial of a study would ask of it; one line."""


def first_line(error: Exception) -> str:
    """What a library's error says at first, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def machine_error(text: str) -> str | None:
    """What a `MachineError` says, as Ray tells of it: in the traceback of another process."""
    causes = re.findall(rf"\b{MachineError.__name__}: (.+)", text)
    return causes[-1].strip() if causes else None


def is_passing(error: BaseException | None) -> bool:
    """Whether ``error``, or what caused it, is about a machine that may be well by now, not about the work itself."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ConnectionError | TimeoutError):
            return True
        if isinstance(error, OSError) and error.errno in ROOM:
            return True
        if LOST & {cls.__name__ for cls in type(error).__mro__}:
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False
