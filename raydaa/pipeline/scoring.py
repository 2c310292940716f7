"""The stage score: responses under models that did not give them, by the training scorer."""

from collections.abc import Iterable, Sequence
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


def score(context: Context, wanted: dict[str, tuple[Job, Start]]) -> dict[str, Path]:
    """Log-probabilities of each job's responses under the model beside it; a folder with them by name."""
    items = {name: _item(context, job, model) for name, (job, model) in wanted.items()}
    context.progress.start("score", f"{len(items)} models under what they started from")
    made = _score(context, items.values())
    kept = len(items) - made
    context.progress.end(f"{made} models scored{f'; {kept} kept from before' if kept else ''}")
    return {name: Path(folder) for name, (_, folder, *_) in items.items()}


def scorers_gap(context: Context, jobs: Sequence[Job]) -> float:
    """How far the log-probabilities that came with a model's responses are from the scorer's: mean, in nats.

    Of the first job whose model is still there.
    """
    job = next((job for job in jobs if (job.model.folder / "config.json").exists()), None)
    if job is None:
        return 0.0
    item = _item(context, job, job.model, LOOKED_AT)
    _score(context, [item])
    scored = read(Path(item[1]) / "scores.parquet")["logp"].to_numpy()
    told = read(job.folder / "responses.parquet")["logp"].to_numpy()[: len(scored)]
    return float(np.abs(told - scored).mean())


def _score(context: Context, items: Iterable[tuple[Any, ...]]) -> int:
    """Score what is not scored yet; how many that were."""
    missing = [item for item in items if not intact(Path(item[1]))]
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
    from raydaa.training.launch import prepare_process
    from raydaa.training.model import device_of_worker
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
