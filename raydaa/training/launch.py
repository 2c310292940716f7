"""Runs on Ray's workers: what needs more than one process, and what must not burden a cluster's driver."""

import contextlib
import ctypes
import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydaa.algorithms.catalog import use
from raydaa.algorithms.method import Method
from raydaa.store.artifacts import key_of, write_json
from raydaa.threads import in_thread
from raydaa.training.spec import RunSpec

if TYPE_CHECKING:
    from raydaa.training.reference import Scoring

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
COST = "cost.json"  # beside log-probabilities: what making them took, and taking them from here saves
ON_HEAD = {"node:__internal_head__": 0.001}  # for what drives a worker group: other machines may be taken away


@dataclass(frozen=True)
class Workers:
    """A worker group. ``threads`` are torch's CPU threads in each worker; ``storage`` is Ray's own folder;
    ``methods`` are classes of the user's own that the workers must know; ``here`` is whether one worker is no more
    than this process."""

    count: int
    cpus: float
    gpus: float
    accelerator: str | None
    threads: int
    storage: str
    max_failures: int
    methods: tuple[type[Method], ...] = ()
    here: bool = False
    together: bool = False  # whether all must be on one machine: between machines gradients travel ten times slower


def prepare_process(threads: int, methods: tuple[type[Method], ...] = ()) -> None:
    """What every process that trains sets first."""
    import torch

    for cls in methods:
        use(cls)
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        # Every micro-batch has another size: segments of a fixed one would fill with gaps.
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")  # each worker of a machine compiles
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns on every import
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Tell glibc to reuse freed memory: by default it returns every large tensor, and gets it back zeroed."""
    for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
        _glibc("mallopt", option, 1 << 30)


def _glibc(name: str, *arguments: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no such calls
        getattr(ctypes.CDLL(None), name)(*arguments)


def on_workers(function: Callable[[dict[str, Any]], Any], config: dict[str, Any], workers: Workers) -> Any:
    """Run ``function(config)`` on every worker; returns what the first worker returns.

    Several are a group of Ray Train's. One alone is a Ray task on a cluster. On a laptop it is this process, which has
    its imports done: another would take seconds for them, and half a GB.
    """
    config = {**config, "threads": workers.threads, "methods": workers.methods}
    if workers.count > 1:
        return _in_a_group(function, config, workers)
    return _leaving_nothing(function, config) if workers.here else _in_a_task(function, config, workers)


def _in_a_task(function: Callable[[dict[str, Any]], Any], config: dict[str, Any], workers: Workers) -> Any:
    import ray

    options: dict[str, Any] = {"num_cpus": workers.cpus, "max_retries": workers.max_failures, "retry_exceptions": True}
    if workers.gpus:  # then Ray ends the process with its task, and the GPU's memory is free
        options |= {"num_gpus": workers.gpus, "accelerator_type": workers.accelerator}
    return ray.get(ray.remote(**options)(_leaving_nothing).remote(function, config))


def _leaving_nothing(function: Callable[[dict[str, Any]], Any], config: dict[str, Any]) -> Any:
    """``function(config)`` in a process that lives on; what it freed goes back to the machine."""
    try:
        return function(config)
    finally:
        gc.collect()
        _glibc("malloc_trim", 0)


def _in_a_group(function: Callable[[dict[str, Any]], Any], config: dict[str, Any], workers: Workers) -> Any:
    """By a `TorchTrainer`."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    resources: dict[str, float] = {"CPU": workers.cpus}
    if workers.gpus:
        resources["GPU"] = workers.gpus
    trainer = TorchTrainer(
        function,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpus > 0,
            resources_per_worker=resources,
            accelerator_type=workers.accelerator if workers.gpus else None,
            placement_strategy="STRICT_PACK" if workers.together else "PACK",
        ),
        run_config=RunConfig(
            name=f"{function.__name__.strip('_')}-{key_of(config=repr({**config, 'methods': None}))[:8]}",
            storage_path=workers.storage,
            failure_config=FailureConfig(max_failures=workers.max_failures),
        ),
    )
    # Every report and the end of a run wait for the controller's next look; its default is 2 s.
    options = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
    if workers.here:  # nobody takes this machine away: no process has to watch for it
        options["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    with _environment(options):  # a study on a cluster may be this process's next
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


def train_part(spec: RunSpec, folder: Path, until: int | None) -> dict[str, Any]:
    """Resume a run in this process, go on to step ``until`` (None: the end) and leave checkpoint or model behind.

    Returns the last metrics with ``done``; a run whose loss is no number returns ``failed`` with the reason,
    since raising would make Ray try it again, and one worker alone that is out of memory ``out_of_memory``.
    """
    from raydaa.store.study_folder import TrialFolder
    from raydaa.training.advance import advance, resume
    from raydaa.training.budget import is_out_of_memory
    from raydaa.training.collectives import from_first, world_size
    from raydaa.training.loop import NonFiniteLossError, Run

    place = TrialFolder(folder)
    if from_first(place.ran_out.exists()) and not spec.halved:  # Ray tries a group again: it would only run out again
        return {"out_of_memory": True, "done": False}
    run, workers = Run(spec), world_size()
    try:
        resume(run, folder)
        target = run.total_steps if until is None else min(until, run.total_steps)
        try:
            metrics = advance(run, folder, target)
        except NonFiniteLossError as error:
            return {"failed": str(error), "done": True}
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            place.ran_out.touch()
            if workers > 1:  # the others wait for this one: only an error ends them
                raise
            return {"out_of_memory": True, "done": False}
        done = run.step >= run.total_steps
        if done:
            run.export(place.model)
        elif run.is_worth_saving:
            run.save(place.checkpoint)
        # A part that was trained already when its driver died has its metrics in the log alone.
        last = metrics or next(reversed(place.read_metrics()), {})
        return {**last, "step": run.step, "seconds": run.seconds, "done": done}
    finally:
        run.close()


def _train(config: dict[str, Any]) -> Any:
    prepare_process(config["threads"], config["methods"])
    return train_part(RunSpec.from_json(config["spec"]), Path(config["folder"]), config["until"])


def train(spec: RunSpec, folder: Path, workers: Workers, until: int | None = None) -> tuple[dict[str, Any], RunSpec]:
    """`train_part` on workers; results lie in ``folder`` (seen by all workers).

    Out of memory it goes on once in micro-batches of half the size, and has failed the second time. Returns the
    result and the spec that it was reached with.
    """
    from raydaa.training.budget import is_out_of_memory

    config = {"spec": spec.to_json(), "folder": str(folder), "until": until}
    try:
        result: dict[str, Any] = on_workers(_train, config, workers)
    except Exception as error:  # Ray wraps what a worker raised
        if not is_out_of_memory(error):
            raise
        result = {"out_of_memory": True}
    if "out_of_memory" not in result:
        return result, spec
    if spec.halved:
        return {"failed": spec.out_of_memory, "done": True}, spec
    return train(spec.with_half_the_tokens(), folder, workers, until)


def _measure(config: dict[str, Any]) -> int:
    prepare_process(config["threads"], config["methods"])
    from raydaa.training.budget import measure

    return measure(RunSpec.from_json(config["spec"]), config["longest"], config["share"])


def measure_budget(spec: RunSpec, longest: int, workers: Workers) -> int:
    """Tokens per micro-batch that fit the GPUs of a worker group, for runs like ``spec``.

    Where two rows of ``longest`` tokens do not fit, one may: then a micro-batch is one row.
    """
    from raydaa.training.budget import is_out_of_memory

    config = {"spec": spec.to_json(), "longest": longest, "share": min(1.0, workers.gpus)}
    for left in reversed(range(workers.max_failures + 1)):  # tried here: Ray would also try again what finds no room
        try:
            return int(on_workers(_measure, config, replace(workers, max_failures=0)))
        except Exception as error:  # Ray wraps what a worker raised
            if is_out_of_memory(error):
                break
            if not left:
                raise
    return longest


def _reference(config: dict[str, Any]) -> float:
    prepare_process(config["threads"])
    from raydaa.training.reference import write_share

    place = Path(config["folder"])
    return write_share(config["source"], config["tables"], place, config["scoring"], config["mismatch"])


def reference(
    source: str,
    tables: dict[str, str],
    folder: Path,
    scoring: "Scoring",
    workers: Workers,
    mismatch: bool = False,
) -> None:
    """Reference log-probabilities of all ``tables`` (name → Parquet) under ``source``, into ``folder``.

    ``mismatch`` as for `raydaa.training.reference.write_share`.
    """
    from raydaa.training.reference import join_shares

    config = {"source": source, "tables": tables, "folder": str(folder), "scoring": scoring, "mismatch": mismatch}
    seconds = on_workers(_reference, config, workers)
    join_shares(folder, tables, workers.count)
    write_json(folder / COST, {"worker_seconds": seconds * workers.count})
