"""The stage score: how far models are from what they started from, response by response.

Both models are asked by one scorer: two engines that round differently, as all do in bf16, disagree about responses
that one of them drew, and not by chance: to that one they are likelier.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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


@dataclass(frozen=True)
class ScoreWork:
    """Responses, scored under the model that gave them and under what it started from."""

    responses: GenerationWork
    start: ModelRef
    output: Output


def score_work(context: Context, responses: GenerationWork, start: ModelRef) -> ScoreWork:
    """The scores of a model's responses."""
    depends_on = {"generation": responses.output.key, "start": start.hash}
    return ScoreWork(responses, start, Output(context.at.scores, depends_on))


def scores(context: Context) -> dict[str, Path]:
    """Where the scores of each model that has moved lie."""
    return {name: work.output.folder for name, work in _work(context).items()}


def _work(context: Context) -> dict[str, ScoreWork]:
    moved = context.once(contest).moved
    return {name: score_work(context, responses, start) for name, (responses, start) in moved.items()}


def _batches(context: Context) -> Iterator[Batch[ScoreWork]]:
    work = list(_work(context).values())
    yield Batch(f"{len(work)} models beside what they started from", work)


def _make(context: Context, missing: Sequence[ScoreWork]) -> str:
    scoring = scoring_of(context)
    tasks = [
        ScoreTask(
            responses=str(work.responses.folder),
            prompts=str(work.responses.table),
            output=work.output,
            model=str(work.responses.model.folder),
            start=str(work.start.folder),
            scoring=scoring,
        )
        for work in missing
    ]
    if context.resolved.apart:
        on_workers(ScoreTasks(tuple(tasks)), context.workers)
    else:
        sizes = [(2 * work.responses.tokens, work.start.folder) for work in missing]
        map_on_workers(tasks, context.workers, at_once=processes(context, sizes))
    return f"{len(missing)} models scored"


@dataclass(frozen=True)
class ScoreTask:
    """Responses in a folder, scored under the models in two others, as one sealed folder.

    Called by one worker, or by all of a group that the models are spread over.
    """

    responses: str  # folder
    prompts: str  # Parquet
    output: Output
    model: str  # folder
    start: str  # folder
    scoring: Scoring

    def __call__(self) -> None:
        from raydaa.data.packing import ResponseTable
        from raydaa.training.collectives import from_all, rank
        from raydaa.training.device import device_of_worker
        from raydaa.training.reference import score_share, two_scorers

        rows = GENERATIONS.read(Path(self.responses)).to_pylist()
        prompts = column(read(Path(self.prompts)).slice(0, len(rows)), "prompt_tokens")
        table = ResponseTable(prompts, [row["tokens"] for row in rows])
        # On a CPU responses are generated in float32 whatever training uses; score them alike.
        precision = self.scoring.precision if device_of_worker().type == "cuda" else "fp32"
        with two_scorers(self.model, self.start, replace(self.scoring, precision=precision)) as policies:
            shares = from_all(score_share(policies, table, self.scoring.budget))
        scored: dict[int, list[float]] = {}
        for numbers, figures in shares:
            scored |= dict(zip(numbers.tolist(), figures.tolist(), strict=True))
        records = [
            {"prompt_id": row["prompt_id"], **dict(zip(("logp", "start_logp", "kl"), scored[number], strict=True))}
            for number, row in enumerate(rows)
        ]
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
    writes="log-probabilities and KL of responses, under their model and its start, by the training scorer",
    depends_on="responses, the start's weights",
    engine="Ray workers",
    after=("generate",),
    batches=_batches,
    make=_make,
)
