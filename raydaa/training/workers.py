"""Worker processes: one task on each of a group's, or many tasks on one each.

A task is a frozen dataclass that is called, without arguments, in a worker that was prepared for training.
"""

import contextlib
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from raydaa.algorithms.catalog import register
from raydaa.algorithms.method import Method
from raydaa.compat.glibc import give_memory_back, keep_freed_memory
from raydaa.compat.ray import train_options
from raydaa.store.artifacts import key_of
from raydaa.threads import in_thread


@dataclass(frozen=True)
class Workers:
    """A worker group. ``threads`` are torch's CPU threads in each worker; ``storage`` is Ray's own folder;
    ``methods`` are classes of the user's own that the workers must know; ``in_process`` is whether one worker is no
    more than this process."""

    count: int
    cpus: float
    gpus: float
    accelerator: str | None
    threads: int
    storage: str
    max_failures: int
    methods: tuple[type[Method], ...] = ()
    in_process: bool = False
    on_one_node: bool = False  # whether all must be on one machine: between machines gradients travel ten times slower


def prepare_process(threads: int, methods: tuple[type[Method], ...] = ()) -> None:
    """What every process that trains sets first."""
    import torch

    for cls in methods:
        register(cls)
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        # Every micro-batch has another size: segments of a fixed one would fill with gaps.
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")  # each worker of a machine compiles
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns on every import
        keep_freed_memory()


def on_workers(task: Callable[[], Any], workers: Workers) -> Any:
    """Call ``task`` on every worker of a group; returns what it returns on the first.

    Several are a group of Ray Train's. One alone is a Ray task on a cluster. On a laptop it is this process, which has
    its imports done: another would take seconds for them, and half a GB.
    """
    if workers.count > 1:
        return _in_a_group(task, workers)
    if workers.in_process:
        return _run_alone(task, workers)
    import ray

    options: dict[str, Any] = {"num_cpus": workers.cpus, "max_retries": workers.max_failures, "retry_exceptions": True}
    if workers.gpus:  # then Ray ends the process with its task, and the GPU's memory is free
        options |= {"num_gpus": workers.gpus, "accelerator_type": workers.accelerator}
    return ray.get(ray.remote(**options)(_run_alone).remote(task, workers))


def map_on_workers(
    tasks: Sequence[Callable[[], Any]],
    workers: Workers,
    done: Callable[[int], None] = lambda _: None,
    at_once: int | None = None,
) -> None:
    """Call every task on one worker, in parallel as resources and ``at_once`` allow; at 0 in this process.

    ``done`` hears how many are finished. A task that raises ends the call with its error.
    """
    if at_once == 0:
        for number, task in enumerate(tasks, 1):
            _prepared(task, workers)
            done(number)
        return
    import ray

    remote = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus, max_retries=2)(_prepared)
    started: list[Any] = []
    running: list[Any] = []
    while len(started) < len(tasks) or running:
        free = (at_once or len(tasks)) - len(running)
        for task in tasks[len(started) :][:free]:
            started.append(remote.remote(task, workers))
            running.append(started[-1])
        _, running = ray.wait(running, num_returns=1)
        done(len(started) - len(running))
    ray.get(started)


def _prepared(task: Callable[[], Any], workers: Workers) -> Any:
    prepare_process(workers.threads, workers.methods)
    return task()


def _run_alone(task: Callable[[], Any], workers: Workers) -> Any:
    """In a process that lives on; what the task freed goes back to the machine."""
    try:
        return _prepared(task, workers)
    finally:
        gc.collect()
        give_memory_back()


def _on_each(config: dict[str, Any]) -> Any:
    """Ray Train hands a dictionary on."""
    return _prepared(config["task"], config["workers"])


def _in_a_group(task: Callable[[], Any], workers: Workers) -> Any:
    """By a `TorchTrainer`."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    resources: dict[str, float] = {"CPU": workers.cpus}
    if workers.gpus:
        resources["GPU"] = workers.gpus
    trainer = TorchTrainer(
        _on_each,
        train_loop_config={"task": task, "workers": workers},
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpus > 0,
            resources_per_worker=resources,
            accelerator_type=workers.accelerator if workers.gpus else None,
            placement_strategy="STRICT_PACK" if workers.on_one_node else "PACK",
        ),
        run_config=RunConfig(
            name=f"{type(task).__name__}-{key_of(task=repr(task))[:8]}",
            storage_path=workers.storage,
            failure_config=FailureConfig(max_failures=workers.max_failures),
        ),
    )
    with _environment(train_options(workers.in_process)):  # a study on a cluster may be this process's next
        # In the main thread Ray would take Ctrl-C for itself, and keep it. It ends what it started.
        return in_thread(trainer.fit).return_value


@contextlib.contextmanager
def _environment(options: dict[str, str]) -> Iterator[None]:
    """``options`` are in the environment where it has none of its own, until the end of the block."""
    added = {name: value for name, value in options.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
