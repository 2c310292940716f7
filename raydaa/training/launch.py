"""Training runs on worker groups: parts of a run, the tokens that fit, and reference log-probabilities."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydaa.store.artifacts import write_json
from raydaa.store.study_folder import COST, TrialFolder
from raydaa.training.spec import RunSpec
from raydaa.training.workers import Workers, on_workers

if TYPE_CHECKING:
    from raydaa.training.reference import Scoring


def train_part(spec: RunSpec, folder: Path, until: int | None) -> dict[str, Any]:
    """Resume a run in this process, go on to step ``until`` (None: the end) and leave checkpoint or model behind.

    Returns the last metrics with ``done``; a run whose loss is no number returns ``failed`` with the reason,
    since raising would make Ray try it again, and one worker alone that is out of memory ``out_of_memory``.
    """
    from raydaa.training.collectives import from_first, world_size
    from raydaa.training.loop import resume, train_until
    from raydaa.training.run import NonFiniteLossError, Run
    from raydaa.training.token_budget import is_out_of_memory

    trial = TrialFolder(folder)
    # Ray tries a group again: it would only run out again.
    if from_first(trial.ran_out.exists()) and not spec.recipe.halved:
        return {"out_of_memory": True, "done": False}
    run = Run(spec)
    workers = world_size()
    try:
        resume(run, folder)
        target = run.total_steps if until is None else min(until, run.total_steps)
        try:
            metrics = train_until(run, folder, target)
        except NonFiniteLossError as error:
            return {"failed": str(error), "done": True}
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            trial.ran_out.touch()
            if workers > 1:  # the others wait for this one: only an error ends them
                raise
            return {"out_of_memory": True, "done": False}
        done = run.step >= run.total_steps
        if done:
            run.export(trial.model)
        elif run.is_worth_saving:
            run.save(trial.checkpoint)
        # A part that was trained already when its driver died has its metrics in the log alone.
        last = metrics or next(reversed(trial.read_metrics()), {})
        return {**last, "step": run.step, "seconds": run.seconds, "done": done}
    finally:
        run.close()


@dataclass(frozen=True)
class TrainTask:
    """`train_part` of a run."""

    spec: RunSpec
    folder: Path
    until: int | None

    def __call__(self) -> dict[str, Any]:
        return train_part(self.spec, self.folder, self.until)


def train(spec: RunSpec, folder: Path, workers: Workers, until: int | None = None) -> tuple[dict[str, Any], RunSpec]:
    """`train_part` on workers; results lie in ``folder`` (seen by all workers).

    Out of memory it goes on once in micro-batches of half the size, and has failed the second time. Returns the
    result and the spec that it was reached with.
    """
    from raydaa.training.token_budget import is_out_of_memory

    try:
        result: dict[str, Any] = on_workers(TrainTask(spec, folder, until), workers)
    except Exception as error:  # Ray wraps what a worker raised
        if not is_out_of_memory(error):
            raise
        result = {"out_of_memory": True}
    if "out_of_memory" not in result:
        return result, spec
    smaller = spec.after_out_of_memory()
    if smaller is None:
        return {"failed": spec.recipe.out_of_memory, "done": True}, spec
    return train(smaller, folder, workers, until)


@dataclass(frozen=True)
class MeasureTask:
    """`raydaa.training.token_budget.measure` for runs like ``spec``, on a ``share`` of a GPU."""

    spec: RunSpec
    longest: int
    share: float

    def __call__(self) -> int:
        from raydaa.training.token_budget import measure

        return measure(self.spec, self.longest, self.share)


def measure_budget(spec: RunSpec, longest: int, workers: Workers) -> int:
    """Tokens per micro-batch that fit the GPUs of a worker group, for runs like ``spec``.

    Where two rows of ``longest`` tokens do not fit, one may: then a micro-batch is one row.
    """
    from raydaa.training.token_budget import is_out_of_memory

    task = MeasureTask(spec, longest, min(1.0, workers.gpus))
    for left in reversed(range(workers.max_failures + 1)):  # tried here: Ray would also try again what finds no room
        try:
            return int(on_workers(task, replace(workers, max_failures=0)))
        except Exception as error:  # Ray wraps what a worker raised
            if is_out_of_memory(error):
                break
            if not left:
                raise
    return longest


@dataclass(frozen=True)
class ReferenceTask:
    """Reference log-probabilities of all ``tables`` (name → Parquet) under the model in ``source``, into ``folder``.

    ``mismatch`` as for `raydaa.training.reference.write_share`.
    """

    source: str
    tables: dict[str, str]
    folder: Path
    scoring: "Scoring"
    mismatch: bool = False

    def __call__(self) -> float:
        from raydaa.training.reference import write_share

        return write_share(self.source, self.tables, self.folder, self.scoring, self.mismatch)


def reference(task: ReferenceTask, workers: Workers) -> None:
    """A task's log-probabilities by a group of workers, and what they took."""
    from raydaa.training.reference import join_shares

    seconds = on_workers(task, workers)
    join_shares(task.folder, task.tables, workers.count)
    write_json(task.folder / COST, {"worker_seconds": seconds * workers.count})
