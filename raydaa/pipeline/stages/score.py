"""The stage score: log-probabilities of responses by the training scorer, under what models started from.

Two engines that round differently, as all do in bf16, disagree about responses that one of them drew, and not by
chance: to that one they are likelier. There a KL is of the scorer's numbers alone, which takes a pass under each model
itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from raydaa.pipeline.contest import contest
from raydaa.pipeline.context import Context
from raydaa.pipeline.named_models import ModelRef
from raydaa.pipeline.responses import GenerationWork, processes
from raydaa.pipeline.stage import Batch, OutputStage
from raydaa.pipeline.token_budget import scoring_of
from raydaa.store.output import Output
from raydaa.store.tables import GENERATIONS, SCORES, column, read
from raydaa.training.reference import Scoring
from raydaa.training.workers import map_on_workers, on_workers

NUM_COMPARED = 32  # responses whose log-probability is taken twice
AGREEMENT = 1e-4  # nats between the two that are nothing but rounding


@dataclass(frozen=True)
class Scores:
    """Folders with the log-probabilities of responses: under what the model started from, and under itself, where those
    that came with the responses will not do."""

    start: Path
    own: Path | None


@dataclass(frozen=True)
class ScoreWork:
    """Responses, or the ``first`` of them, scored under ``model``."""

    responses: GenerationWork
    model: ModelRef
    first: int | None
    output: Output


def scores(context: Context) -> dict[str, Scores]:
    """Where the scores of each model that has moved lie."""
    own = _own_work(context) if context.once(scorers_gap) > AGREEMENT else {}
    under_start = _start_work(context)
    return {
        name: Scores(work.output.folder, own[name].output.folder if name in own else None)
        for name, work in under_start.items()
    }


def scorers_gap(context: Context) -> float:
    """How far the log-probabilities that came with a model's responses are from the scorer's: mean, in nats.

    0 where no model is there that could be asked, or nobody has asked it yet.
    """
    work = _compared_work(context)
    if work is None or not work.output.done:
        return 0.0
    scored = SCORES.read(work.output.folder)["logp"].to_numpy()
    generated = GENERATIONS.read(work.responses.folder)["logp"].to_numpy()[: len(scored)]
    return float(np.abs(generated - scored).mean())


def is_scored(context: Context, responses: GenerationWork) -> bool:
    """Whether responses have been scored under the model that gave them."""
    return _work(context, responses, responses.model).output.done


def _batches(context: Context) -> Iterator[Batch[ScoreWork]]:
    """All under what they started from; what these say of the engines decides about the rest."""
    work = list(_start_work(context).values())
    compared = _compared_work(context)
    yield Batch(f"{len(work)} models under what they started from", [*work, *([compared] if compared else [])])
    if context.once(scorers_gap) > AGREEMENT:
        own = list(_own_work(context).values())
        yield Batch(f"{len(own)} models under themselves", own)


def _start_work(context: Context) -> dict[str, ScoreWork]:
    moved = context.once(contest).moved
    return {name: _work(context, responses, start) for name, (responses, start) in moved.items()}


def _own_work(context: Context) -> dict[str, ScoreWork]:
    """Of the models that are there, or what they said while they were."""
    moved = context.once(contest).moved
    work = {name: _work(context, responses, responses.model) for name, (responses, _) in moved.items()}
    return {name: item for name, item in work.items() if item.output.done or _is_there(item.model)}


def _compared_work(context: Context) -> ScoreWork | None:
    """The first responses of the first model that is still there."""
    wanted = context.once(contest)
    for contestant in wanted.contestants:
        responses = wanted.for_kl[contestant.name]
        if _is_there(responses.model):
            return _work(context, responses, responses.model, NUM_COMPARED)
    return None


def _is_there(model: ModelRef) -> bool:
    return (model.folder / "config.json").exists()


def _work(context: Context, responses: GenerationWork, model: ModelRef, first: int | None = None) -> ScoreWork:
    depends_on = {"generation": responses.output.key, "start": model.hash, "first": first}
    return ScoreWork(responses, model, first, Output(context.at.scores, depends_on))


def _make(context: Context, missing: Sequence[ScoreWork]) -> str:
    scoring = scoring_of(context)
    tasks = [
        ScoreTask(
            responses=str(work.responses.folder),
            prompts=str(work.responses.table),
            output=work.output,
            model=str(work.model.folder),
            scoring=scoring,
            first=work.first,
        )
        for work in missing
    ]
    if context.resolved.apart:
        on_workers(ScoreTasks(tuple(tasks)), context.workers)
    else:
        sizes = [(work.responses.tokens, work.model.folder) for work in missing]
        map_on_workers(tasks, context.workers, at_once=processes(context, sizes))
    return f"{sum(work.first is None for work in missing)} models scored"


@dataclass(frozen=True)
class ScoreTask:
    """Responses in a folder, or the ``first`` of them, scored under the model in another, as one sealed folder.

    Called by one worker, or by all of a group that the model is spread over.
    """

    responses: str  # folder
    prompts: str  # Parquet
    output: Output
    model: str  # folder
    scoring: Scoring
    first: int | None

    def __call__(self) -> None:
        from raydaa.data.packing import ResponseTable
        from raydaa.training.collectives import from_all, rank
        from raydaa.training.device import device_of_worker
        from raydaa.training.reference import score_share, scorer

        rows = GENERATIONS.read(Path(self.responses)).slice(0, self.first).to_pylist()
        prompts = column(read(Path(self.prompts)).slice(0, len(rows)), "prompt_tokens")
        table = ResponseTable(prompts, [row["tokens"] for row in rows])
        # On a CPU responses are generated in float32 whatever training uses; score them alike.
        precision = self.scoring.precision if device_of_worker().type == "cuda" else "fp32"
        with scorer(self.model, replace(self.scoring, precision=precision)) as policy:
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


STAGE = OutputStage(
    name="score",
    writes="log-probabilities of responses under the start, by the training scorer",
    depends_on="responses, the start's weights",
    engine="Ray workers",
    after=("generate",),
    batches=_batches,
    make=_make,
)
