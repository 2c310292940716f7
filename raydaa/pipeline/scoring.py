"""The stage score: log-probabilities of responses by the training scorer, under what models started from.

Two engines that round differently, as all do in bf16, disagree about responses that one of them drew, and not by
chance: to that one they are likelier. There a KL is of the scorer's numbers alone, which takes a pass under each model
itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raydaa.cluster import map_on_cluster
from raydaa.pipeline.context import Context, Start
from raydaa.pipeline.generation import Job, processes
from raydaa.store.artifacts import intact, key_of, make_folder
from raydaa.store.tables import SCORES, read, write
from raydaa.training.launch import on_workers

LOOKED_AT = 32  # responses whose log-probability is taken twice
AGREEMENT = 1e-4  # nats between the two that are nothing but rounding


@dataclass(frozen=True)
class Scores:
    """Folders with the log-probabilities of responses: under what the model started from, and under itself, where those
    that came with the responses will not do."""

    start: Path
    own: Path | None


class Item(NamedTuple):
    """A job's responses, or the ``first`` of them, to be scored under the model in ``start``; plain values."""

    responses: str  # folder
    prompts: str  # Parquet
    folder: str  # where the log-probabilities go
    start: str
    options: dict[str, Any]  # of `scorer`
    first: int | None
    tokens: int  # at most


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


def _folder(item: Item) -> Path:
    return Path(item.folder)


def _can_be(item: Item) -> bool:
    """Whether the model is there, or what it said while it was."""
    return intact(_folder(item)) or (Path(item.start) / "config.json").exists()


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


def _score(context: Context, items: Iterable[Item]) -> int:
    """Score what is not scored yet; how many that were."""
    missing = [item for item in items if not intact(_folder(item))]
    if context.apart and missing:
        on_workers(score_items, {"items": missing}, context.workers)
        return len(missing)
    at_once = processes(context, [(item.tokens, Path(item.start)) for item in missing])
    alone = [({"items": [item], "threads": context.workers.threads},) for item in missing]
    map_on_cluster(score_items, alone, context.workers.cpus, context.workers.gpus, at_once=at_once)
    return len(missing)


def _item(context: Context, job: Job, model: Start, first: int | None = None) -> Item:
    key = key_of(generation=job.folder.name, start=model.hash, first=first)
    folder = context.at.scores(key)
    place = str(job.folder), str(job.table), str(folder)
    return Item(*place, str(model.folder), context.scoring(), first, job.tokens)


def score_items(config: dict[str, Any]) -> None:
    """Log-probabilities of each of ``items``, as one sealed folder; by one process, or all of a group's."""
    from raydaa.training.launch import prepare_process

    prepare_process(config["threads"])
    for item in config["items"]:
        _score_item(Item(*item))


def _score_item(item: Item) -> None:
    from raydaa.data.packing import ResponseTable
    from raydaa.training.collectives import from_all, rank
    from raydaa.training.device import device_of_worker
    from raydaa.training.reference import score_share, scorer

    rows = read(Path(item.responses) / "responses.parquet").slice(0, item.first).to_pylist()
    asked = read(Path(item.prompts)).slice(0, len(rows))["prompt_tokens"].to_pylist()
    table = ResponseTable(asked, [row["tokens"] for row in rows])
    # On a CPU responses are generated in float32 whatever training uses; score them alike.
    precision = item.options["precision"] if device_of_worker().type == "cuda" else "fp32"
    with scorer(item.start, {**item.options, "precision": precision}) as policy:
        shares = from_all(score_share(policy, table, item.options["budget"]))
    logps = {int(row): float(sums[0]) for numbers, values in shares for row, sums in zip(numbers, values, strict=True)}
    records = [{"prompt_id": row["prompt_id"], "logp": logps[number]} for number, row in enumerate(rows)]
    if rank() == 0:
        make_folder(Path(item.folder), lambda temporary: write(temporary / "scores.parquet", records, SCORES))
