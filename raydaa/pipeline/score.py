"""The stage score: log-probabilities of responses by the training scorer, under what models started from.

Two engines that round differently, as all do in bf16, disagree about responses that one of them drew, and not by
chance: to that one they are likelier. There a KL is of the scorer's numbers alone, which takes a pass under each model
itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from raydaa.pipeline.context import Context
from raydaa.pipeline.generate import Job, processes
from raydaa.pipeline.stage import Stage, ensure, missing
from raydaa.pipeline.starts import Start
from raydaa.store.output import Output
from raydaa.store.tables import GENERATIONS, SCORES, column, read
from raydaa.training.reference import Scoring
from raydaa.training.workers import map_on_workers, on_workers

STAGE = Stage(
    name="score",
    writes="log-probabilities of responses under the start, by the training scorer",
    depends_on="responses, the start's weights",
    engine="Ray workers",
    after=("generate",),
)


LOOKED_AT = 32  # responses whose log-probability is taken twice
AGREEMENT = 1e-4  # nats between the two that are nothing but rounding


@dataclass(frozen=True)
class Scores:
    """Folders with the log-probabilities of responses: under what the model started from, and under itself, where those
    that came with the responses will not do."""

    start: Path
    own: Path | None


@dataclass(frozen=True)
class ScoreTask:
    """A job's responses, or the ``first`` of them, scored under the model in ``start``, as one sealed folder.

    Called by one worker, or by all of a group that the model is spread over.
    """

    responses: str  # folder
    prompts: str  # Parquet
    output: Output
    start: str
    scoring: Scoring
    first: int | None
    tokens: int  # at most

    def __call__(self) -> None:
        from raydaa.data.packing import ResponseTable
        from raydaa.training.collectives import from_all, rank
        from raydaa.training.device import device_of_worker
        from raydaa.training.reference import score_share, scorer

        rows = GENERATIONS.read(Path(self.responses)).slice(0, self.first).to_pylist()
        asked = column(read(Path(self.prompts)).slice(0, len(rows)), "prompt_tokens")
        table = ResponseTable(asked, [row["tokens"] for row in rows])
        # On a CPU responses are generated in float32 whatever training uses; score them alike.
        precision = self.scoring.precision if device_of_worker().type == "cuda" else "fp32"
        with scorer(self.start, replace(self.scoring, precision=precision)) as policy:
            shares = from_all(score_share(policy, table, self.scoring.budget))
        logps = {
            int(row): float(sums[0]) for numbers, values in shares for row, sums in zip(numbers, values, strict=True)
        }
        records = [{"prompt_id": row["prompt_id"], "logp": logps[number]} for number, row in enumerate(rows)]
        if rank() == 0:
            self.output.seal(lambda temporary: SCORES.write(temporary, records))


@dataclass(frozen=True)
class ScoreTasks:
    """One after another, by the same workers."""

    tasks: tuple[ScoreTask, ...]

    def __call__(self) -> None:
        for task in self.tasks:
            task()


def score(context: Context, wanted: dict[str, tuple[Job, Start]], alone: bool) -> dict[str, Scores]:
    """Log-probabilities of each job's responses under the model beside it; ``alone``: and under its own."""
    starts = {name: _task(context, job, model) for name, (job, model) in wanted.items()}
    own = {name: _task(context, job, job.model) for name, (job, _) in wanted.items() if alone}
    own = {name: task for name, task in own.items() if _can_be(task)}

    def make(missing: list[ScoreTask]) -> str:
        _score(context, missing)
        return f"{len(missing)} models scored"

    about = f"{len(starts)} models under what they started from{' and themselves' * alone}"
    ensure(context, STAGE, about, [*starts.values(), *own.values()], make)
    folders = {name: task.output.folder for name, task in own.items()}
    return {name: Scores(task.output.folder, folders.get(name)) for name, task in starts.items()}


def start_tasks(context: Context, wanted: dict[str, tuple[Job, Start]]) -> list[ScoreTask]:
    """Each job's responses under the model beside it."""
    return [_task(context, job, model) for job, model in wanted.values()]


def is_scored(context: Context, job: Job) -> bool:
    """Whether a job's responses have been scored under their own model."""
    return _task(context, job, job.model).output.done


def _can_be(task: ScoreTask) -> bool:
    """Whether the model is there, or what it said while it was."""
    return task.output.done or (Path(task.start) / "config.json").exists()


def scorers_gap(context: Context, jobs: Sequence[Job]) -> float:
    """How far the log-probabilities that came with a model's responses are from the scorer's: mean, in nats.

    Of the first job whose model is still there.
    """
    job = next((job for job in jobs if (job.model.folder / "config.json").exists()), None)
    if job is None:
        return 0.0
    task = _task(context, job, job.model, LOOKED_AT)
    _score(context, missing([task]))
    scored = SCORES.read(task.output.folder)["logp"].to_numpy()
    told = GENERATIONS.read(job.folder)["logp"].to_numpy()[: len(scored)]
    return float(np.abs(told - scored).mean())


def _score(context: Context, tasks: Sequence[ScoreTask]) -> None:
    if context.resolved.apart and tasks:
        on_workers(ScoreTasks(tuple(tasks)), context.workers)
        return
    at_once = processes(context, [(task.tokens, Path(task.start)) for task in tasks])
    map_on_workers(tasks, context.workers, at_once=at_once)


def _task(context: Context, job: Job, model: Start, first: int | None = None) -> ScoreTask:
    depends_on = {"generation": job.output.key, "start": model.hash, "first": first}
    output = Output(context.at.scores, depends_on)
    return ScoreTask(str(job.folder), str(job.table), output, str(model.folder), context.scoring(), first, job.tokens)
