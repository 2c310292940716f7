"""The stage judge: verdicts of every model's responses against the baseline's."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from raydaa.errors import InputError
from raydaa.judging.judge import Comparisons, JudgeError, JudgeResources, Rows
from raydaa.pipeline.benchmarks import Benchmark
from raydaa.pipeline.context import Context
from raydaa.pipeline.generate import Job
from raydaa.pipeline.stage import Stage, ensure
from raydaa.store.output import Output
from raydaa.store.tables import GENERATIONS, VERDICTS, column, read

STAGE = Stage(
    name="judge",
    writes="verdicts against the baseline's responses",
    depends_on="both responses, the judge, its prompt and orders",
    engine="the judge",
    after=("generate",),
)


NOTHING_TO_JUDGE = (
    "every response equals the baseline's; train longer or at a higher rate, or generate at a higher temperature"
)


@dataclass(frozen=True)
class VerdictWork:
    """Verdicts on one contestant's responses."""

    name: str
    output: Output


def judge(context: Context, benchmark: Benchmark, jobs: dict[str, Job]) -> dict[str, Path]:
    """Verdicts of every contestant's responses to the benchmark's prompts against the baseline's; folders by name, none
    where nobody judges."""
    by = benchmark.judge
    if by is None:
        return {}
    prompts = read(benchmark.table).to_pylist()
    responses = {name: column(GENERATIONS.read(job.folder), "response") for name, job in jobs.items()}
    against = list(benchmark.fixed) if benchmark.fixed is not None else responses[benchmark.baseline]
    verdicts = {one.name: one for one in verdict_work(context, benchmark, jobs)}

    def make(missing: list[VerdictWork]) -> str:
        if missing:
            others = {name: given for name, given in responses.items() if name != benchmark.baseline}
            if by.by_language and others and all(given == against for given in others.values()):
                raise _stopped(context, NOTHING_TO_JUDGE)
            comparisons = Comparisons(prompts, against, {one.name: responses[one.name] for one in missing})
            try:
                judged = by.judge(comparisons, _resources(context))
            except JudgeError as error:
                raise _stopped(context, str(error), error.passing) from None
            for name, rows in judged.items():
                _check_readable(context, comparisons, name, rows)
                verdicts[name].output.seal(partial(_write_verdicts, rows))
        return f"{len(jobs) * len(prompts)} verdicts"

    against_whom = Path(benchmark.baseline).name if benchmark.fixed is not None else benchmark.baseline
    about = f"{len(jobs)} models against {against_whom}, {benchmark.label}"
    ensure(context, STAGE, about, list(verdicts.values()), make, tell_kept=False)
    return {name: one.output.folder for name, one in verdicts.items()}


def verdict_work(context: Context, benchmark: Benchmark, jobs: dict[str, Job]) -> list[VerdictWork]:
    """What there is to judge; nothing where nobody does."""
    if benchmark.judge is None:
        return []
    common = {"baseline": benchmark.baseline_key(jobs), "judge": benchmark.judge.identity()}
    return [
        VerdictWork(name, Output(context.at.verdicts, {"model": job.output.key, **common}))
        for name, job in jobs.items()
    ]


def _resources(context: Context) -> JudgeResources:
    settings = context.settings
    return JudgeResources(
        verdicts=context.study.cache / "verdicts",
        rewards=context.at.rewards,
        seed=settings.generation.seed,
        precision=settings.training.precision,
        trust_remote_code=settings.model.trust_remote_code,
        workers=context.workers,
        spending=context.spending,
        tell=context.progress.update,
    )


def _write_verdicts(rows: Rows, folder: Path) -> None:
    VERDICTS.write(folder, rows)


def _check_readable(context: Context, comparisons: Comparisons, name: str, verdicts: Rows) -> None:
    """InputError where the judge was understood on less than half of what it was asked: its figures would say nothing,
    or speak of the few responses that equal the baseline's."""
    asked = [
        row
        for row, (_, mine, other) in zip(verdicts, comparisons.games(comparisons.responses[name]), strict=True)
        if mine != other
    ]
    readable = sum(row["outcome"] is not None for row in asked)
    if 2 * readable >= len(asked):
        return
    unread = next(row for row in asked if row["outcome"] is None)
    comment = next((unread[key] for key in ("first_comment", "second_comment") if unread.get(key)), None)
    example = "" if comment is None else f", e.g. {' '.join(comment.split())[:120]!r}"
    raise InputError(
        f"{context.study.where}: evaluation.judge: only {readable} of {len(asked)} verdicts can be read{example}; "
        f"use another judge, judge.prompt or judge.parameters"
    )


def _stopped(context: Context, why: str, passing: bool = False) -> InputError:
    """What ends the stage; ``passing``: without anything being mended it may not end the next run."""
    kept = "the same command goes on" if passing else "what is judged is kept"
    return InputError(f"{context.study.where}: evaluation.judge: {why}; {kept}")
