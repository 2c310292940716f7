"""The stage score: log-probabilities of responses by the training scorer, under what models started from.

Two engines that round differently, as all do in bf16, disagree about responses that one of them drew, and not by
chance: to that one they are likelier. There a KL is of the scorer's numbers alone, which takes a pass under each model
itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from raydaa.cluster import map_on_cluster
from raydaa.pipeline.context import Context
from raydaa.pipeline.generation import Job, processes
from raydaa.pipeline.stage import Output, ensure, missing
from raydaa.pipeline.starts import Start
from raydaa.store.tables import SCORES, read, write
from raydaa.training.launch import on_workers
from raydaa.training.reference import Scoring

LOOKED_AT = 32  # responses whose log-probability is taken twice
AGREEMENT = 1e-4  # nats between the two that are nothing but rounding


@dataclass(frozen=True)
class Scores:
    """Folders with the log-probabilities of responses: under what the model started from, and under itself, where those
    that came with the responses will not do."""

    start: Path
    own: Path | None


@dataclass(frozen=True)
class Item:
    """A job's responses, or the ``first`` of them, to be scored under the model in ``start``."""

    responses: str  # folder
    prompts: str  # Parquet
    output: Output
    start: str
    scoring: Scoring
    first: int | None
    tokens: int  # at most


def score(context: Context, wanted: dict[str, tuple[Job, Start]], alone: bool) -> dict[str, Scores]:
    """Log-probabilities of each job's responses under the model beside it; ``alone``: and under its own."""
    starts = {name: _item(context, job, model) for name, (job, model) in wanted.items()}
    own = {name: _item(context, job, job.model) for name, (job, _) in wanted.items() if alone}
    own = {name: item for name, item in own.items() if _can_be(item)}

    def make(missing: list[Item]) -> str:
        _score(context, missing)
        return f"{len(missing)} models scored"

    about = f"{len(starts)} models under what they started from{' and themselves' * alone}"
    ensure(context, "score", about, [*starts.values(), *own.values()], make)
    folders = {name: item.output.folder for name, item in own.items()}
    return {name: Scores(item.output.folder, folders.get(name)) for name, item in starts.items()}


def is_scored(context: Context, job: Job) -> bool:
    """Whether a job's responses have been scored under their own model."""
    return _item(context, job, job.model).output.done


def _can_be(item: Item) -> bool:
    """Whether the model is there, or what it said while it was."""
    return item.output.done or (Path(item.start) / "config.json").exists()


def scorers_gap(context: Context, jobs: Sequence[Job]) -> float:
    """How far the log-probabilities that came with a model's responses are from the scorer's: mean, in nats.

    Of the first job whose model is still there.
    """
    job = next((job for job in jobs if (job.model.folder / "config.json").exists()), None)
    if job is None:
        return 0.0
    item = _item(context, job, job.model, LOOKED_AT)
    _score(context, missing([item]))
    scored = read(item.output.folder / "scores.parquet")["logp"].to_numpy()
    told = read(job.folder / "responses.parquet")["logp"].to_numpy()[: len(scored)]
    return float(np.abs(told - scored).mean())


def _score(context: Context, items: Sequence[Item]) -> None:
    if context.apart and items:
        on_workers(score_items, {"items": items}, context.workers)
        return
    at_once = processes(context, [(item.tokens, Path(item.start)) for item in items])
    alone = [({"items": [item], "threads": context.workers.threads},) for item in items]
    map_on_cluster(score_items, alone, context.workers.cpus, context.workers.gpus, at_once=at_once)


def _item(context: Context, job: Job, model: Start, first: int | None = None) -> Item:
    depends_on = {"generation": job.output.key, "start": model.hash, "first": first}
    output = Output(context.at.scores, depends_on)
    return Item(str(job.folder), str(job.table), output, str(model.folder), context.scoring(), first, job.tokens)


def score_items(config: dict[str, Any]) -> None:
    """Log-probabilities of each of ``items``, as one sealed folder; by one process, or all of a group's."""
    from raydaa.training.launch import prepare_process

    prepare_process(config["threads"])
    for item in config["items"]:
        _score_item(item)


def _score_item(item: Item) -> None:
    from raydaa.data.packing import ResponseTable
    from raydaa.training.collectives import from_all, rank
    from raydaa.training.device import device_of_worker
    from raydaa.training.reference import score_share, scorer

    rows = read(Path(item.responses) / "responses.parquet").slice(0, item.first).to_pylist()
    asked = read(Path(item.prompts)).slice(0, len(rows))["prompt_tokens"].to_pylist()
    table = ResponseTable(asked, [row["tokens"] for row in rows])
    # On a CPU responses are generated in float32 whatever training uses; score them alike.
    precision = item.scoring.precision if device_of_worker().type == "cuda" else "fp32"
    with scorer(item.start, replace(item.scoring, precision=precision)) as policy:
        shares = from_all(score_share(policy, table, item.scoring.budget))
    logps = {int(row): float(sums[0]) for numbers, values in shares for row, sums in zip(numbers, values, strict=True)}
    records = [{"prompt_id": row["prompt_id"], "logp": logps[number]} for number, row in enumerate(rows)]
    if rank() == 0:
        item.output.seal(lambda temporary: write(temporary / "scores.parquet", records, SCORES))
