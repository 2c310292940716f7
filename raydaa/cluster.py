"""The Ray cluster a study runs on: one started on this machine, or one that is there already."""

import contextlib
import logging
import os
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydaa.compat.ray import set_options, system_config
from raydaa.errors import InputError
from raydaa.signals import handled, heard_after, looking


@dataclass(frozen=True)
class Resources:
    """What the cluster has at the moment."""

    cpus: int
    gpus: int
    local: bool
    accelerators: tuple[str, ...] = ()  # by Ray's names
    nodes: tuple[tuple[float, float], ...] = ()  # CPUs and GPUs of each


# Serve's own actors ask for fractions of a CPU; without a spare logical one a machine whose cores all belong to workers
# could never start the last worker.
SPARE_CPUS = 1
KEPT_CPUS = 0.5  # of the spare one, which Ray wants whole: what is left is too small for a worker
FEW_CORES = 8  # each has a process that waits, and with what trials import it takes half a GB
LOOK_SECONDS = 2.0
ACCELERATOR = "accelerator_type:"  # what Ray's names for nodes' accelerators begin with
SOCKETS_BELOW = 38  # characters: Ray adds 69 to a temporary folder's path, and a socket's has at most 107

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Resources]:
    """A connection to Ray, closed at the end; a Ray of our own is started (and stopped) where no address is given."""
    with connecting(address) as ready:
        yield ready()


@contextlib.contextmanager
def connecting(
    address: str | None, early: bool = False, preload: Sequence[str] = ()
) -> Iterator[Callable[[], Resources]]:
    """`connected` as soon as what it yields is called.

    A Ray of our own that is started ``early`` starts beside what is done before. Its processes import the modules
    ``preload`` while they wait for work, where cores are few.
    """
    set_options()
    import ray

    if ray.is_initialized():  # somebody's who works in this process, and goes on with it
        logger.warning("the Ray that this process is connected to is used, and left running")
        yield lambda: counted(local=False)
        return
    if address is None:
        short_temporary_folder()
    listening = threading.current_thread() is threading.main_thread()  # only there signals are heard
    # The thread must live as long as the Ray that it starts: Linux ends those processes with it.
    with ThreadPoolExecutor(1) as side, contextlib.ExitStack() as own:
        own.callback(ray.shutdown)

        def start() -> Future[None]:
            starting = side.submit(_start, preload)
            own.callback(wait, [starting])
            if listening:
                own.enter_context(heard_after(starting))
            return starting

        started = start() if early and address is None else None

        def ready() -> Resources:
            if address is not None:
                ray.init(address=address, log_to_driver=True)
            else:
                (started or start()).result()
                if listening:
                    own.enter_context(_watched())
            return counted(address is None)

        yield ready


def short_temporary_folder() -> str | None:
    """Where sockets can lie if the temporary folder's path is too long for them; None where it is not.

    InputError, which names the variable, where there is no other place.
    """
    named = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(folder) <= SOCKETS_BELOW:
        return None
    if named == "TMPDIR" and os.access("/tmp", os.W_OK | os.X_OK):
        return "/tmp"
    raise InputError(
        f"{named}: {folder} is too long a path for sockets; name one of at most {SOCKETS_BELOW} characters"
    )


def _start(preload: Sequence[str]) -> None:
    """A Ray of our own."""
    import ray

    cores = len(os.sched_getaffinity(0))
    ray.init(
        address="local",
        num_cpus=cores + SPARE_CPUS,
        include_dashboard=False,
        _temp_dir=None if (short := short_temporary_folder()) is None else f"{short}/ray",
        log_to_driver=True,
        _system_config=system_config(preload, cores <= FEW_CORES),
    )
    ray.util.placement_group([{"CPU": KEPT_CPUS}]).wait()


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Raises ConnectionError in the main thread when the raylet of our own Ray is gone.

    Nobody starts another one, and Tune would wait for it forever.
    """
    import ray

    def lost(*_: Any) -> None:
        raise ConnectionError("Ray's process on this machine died")

    def look() -> None:
        with contextlib.suppress(Exception):  # without its head Ray ends this process itself
            if not any(node["Alive"] for node in ray.nodes()):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)

    with handled({signal.SIGUSR2: lost}), looking(look, LOOK_SECONDS):
        yield


def counted(local: bool) -> Resources:
    """The resources of the nodes that are there now; ``local`` where the Ray is our own."""
    import ray

    total = ray.cluster_resources()
    accelerators = tuple(sorted(name.removeprefix(ACCELERATOR) for name in total if name.startswith(ACCELERATOR)))
    cpus = int(total.get("CPU", 0)) - (SPARE_CPUS if local else 0)
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = tuple((alive_node.get("CPU", 0.0), alive_node.get("GPU", 0.0)) for alive_node in alive)
    return Resources(cpus, int(total.get("GPU", 0)), local, accelerators, nodes)


def expected_resources(accelerator: str | None) -> Resources:
    """Before there is a Ray: this machine's, or those of a cluster that has the ``accelerator`` that a study names."""
    import torch

    if accelerator is not None:
        return Resources(0, 0, local=False)
    return Resources(len(os.sched_getaffinity(0)), torch.cuda.device_count(), local=True)


def blind_nodes(folder: Path) -> list[str]:
    """Addresses of the cluster's nodes that do not see ``folder`` as this process does.

    A node that goes before it has looked is none of them: on a cluster that scales, nodes come and go at any time.
    """
    import ray
    from ray.exceptions import NodeDiedError, TaskUnschedulableError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    mark = folder / f".seen-{uuid.uuid4().hex}"
    mark.touch()
    try:
        look = ray.remote(num_cpus=0)(_sees)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        there = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
        answers = [look.options(scheduling_strategy=strategy).remote(mark) for strategy in there]
        blind = set()
        for node, answer in zip(nodes, answers, strict=True):
            with contextlib.suppress(NodeDiedError, TaskUnschedulableError):
                if not ray.get(answer):
                    blind.add(node["NodeManagerAddress"])
    finally:
        mark.unlink()
    return sorted(blind)


def _sees(path: Path) -> bool:
    return path.exists()
