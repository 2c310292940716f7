"""The stage score: log-probabilities of responses by the training scorer, under what models started from.

Two engines that round differently, as all do in bf16, disagree about responses that one of them drew, and not by
chance: to that one they are likelier. There a KL is of the scorer's numbers alone, which takes a pass under each model
itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raydaa.artifacts import intact, key_of, make_folder
from raydaa.cluster import map_on_cluster
from raydaa.pipeline.context import Context, Start
from raydaa.pipeline.generation import Job, processes
from raydaa.records import SCORES, read, write

LOOKED_AT = 32  # responses whose log-probability is taken twice
AGREEMENT = 1e-4  # nats between the two that are nothing but rounding


@dataclass(frozen=True)
class Scores:
    """Folders with the log-probabilities of responses: under what the model started from, and under itself, where those
    that came with the responses will not do."""

    start: Path
    own: Path | None


def score(context: Context, wanted: dict[str, tuple[Job, Start]], alone: bool) -> dict[str, Scores]:
    """Log-probabilities of each job's responses under the model beside it; ``alone``: and under its own."""
    starts = {name: _item(context, job, model) for name, (job, model) in wanted.items()}
    own = {name: _item(context, job, job.model) for name, (job, _) in wanted.items() if alone}
    own = {name: item for name, item in own.items() if _can_be(item)}
    context.progress.start("score", f"{len(starts)} models under what they started from{' and themselves' * alone}")
    made = _score(context, [*starts.values(), *own.values()])
    kept = len(starts) + len(own) - made
    context.progress.end(f"{made} models scored{f'; {kept} kept from before' if kept else ''}")
    return {name: Scores(_folder(starts[name]), _folder(own[name]) if name in own else None) for name in starts}


def is_scored(context: Context, job: Job) -> bool:
    """Whether a job's responses have been scored under their own model."""
    return intact(_folder(_item(context, job, job.model)))


def _folder(item: tuple[Any, ...]) -> Path:
    return Path(item[1])


def _can_be(item: tuple[Any, ...]) -> bool:
    """Whether the model is there, or what it said while it was."""
    return intact(_folder(item)) or (Path(item[2]) / "config.json").exists()


def scorers_gap(context: Context, jobs: Sequence[Job]) -> float:
    """How far the log-probabilities that came with a model's responses are from the scorer's: mean, in nats.

    Of the first job whose model is still there.
    """
    job = next((job for job in jobs if (job.model.folder / "config.json").exists()), None)
    if job is None:
        return 0.0
    item = _item(context, job, job.model, LOOKED_AT)
    _score(context, [item])
    scored = read(_folder(item) / "scores.parquet")["logp"].to_numpy()
    told = read(job.folder / "responses.parquet")["logp"].to_numpy()[: len(scored)]
    return float(np.abs(told - scored).mean())


def _score(context: Context, items: Iterable[tuple[Any, ...]]) -> int:
    """Score what is not scored yet; how many that were."""
    missing = [item for item in items if not intact(_folder(item))]
    at_once = processes(context, [(job, Path(model)) for job, _, model, *_ in missing])
    map_on_cluster(score_in_process, missing, context.workers.cpus, context.workers.gpus, at_once=at_once)
    return len(missing)


def _item(context: Context, job: Job, model: Start, first: int | None = None) -> tuple[Any, ...]:
    """What `score_in_process` is called with for a job's responses, or the ``first`` of them, under ``model``."""
    settings = context.settings
    key = key_of(generation=job.folder.name, start=model.hash, first=first)
    return (
        job,
        str(context.folder / "scores" / key),
        str(model.folder),
        settings.training.precision,
        context.tokens_of(settings.training),
        settings.model.trust_remote_code,
        context.workers.threads,
        first,
    )


def score_in_process(
    job: Job,
    folder: str,
    start: str,
    precision: str,
    budget: int,
    trust: bool,
    threads: int,
    first: int | None,
) -> None:
    """Log-probabilities of a job's responses under ``start``, as one sealed folder."""
    from raydaa.data.packing import ResponseTable
    from raydaa.training.device import device_of_worker
    from raydaa.training.launch import prepare_process
    from raydaa.training.reference import make_policy
    from raydaa.training.reference import score as score_rows

    def fill(temporary: Path) -> None:
        prepare_process(threads)
        rows = read(job.folder / "responses.parquet").slice(0, first).to_pylist()
        asked = read(job.table).slice(0, len(rows))["prompt_tokens"].to_pylist()
        table = ResponseTable(asked, [row["tokens"] for row in rows])
        # On a CPU responses are generated in float32 whatever training uses; score them alike.
        used = precision if device_of_worker().type == "cuda" else "fp32"
        logps = score_rows(make_policy(start, used, trust), table, np.arange(len(table)), budget)[:, 0]
        records = [{"prompt_id": row["prompt_id"], "logp": float(v)} for row, v in zip(rows, logps, strict=True)]
        write(temporary / "scores.parquet", records, SCORES)

    make_folder(Path(folder), fill)
