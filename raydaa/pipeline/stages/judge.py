"""The stage judge: verdicts of every model's responses against the baseline's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from raydaa.errors import InputError
from raydaa.evaluation.racing import Race
from raydaa.judging.judge import Comparisons, JudgeError, JudgeResources, Rows
from raydaa.pipeline.benchmarks import Benchmark
from raydaa.pipeline.contest import contest
from raydaa.pipeline.context import Context
from raydaa.pipeline.responses import GenerationWork
from raydaa.pipeline.stage import Batch, OutputStage
from raydaa.store.output import Output
from raydaa.store.tables import GENERATIONS, VERDICTS, column, read

NOTHING_TO_JUDGE = (
    "every response equals the baseline's; train longer or at a higher rate, or generate at a higher temperature"
)


@dataclass(frozen=True)
class VerdictWork:
    """Verdicts on one contestant's responses, one of the ``judged``, to a benchmark."""

    name: str
    benchmark: Benchmark
    judged: dict[str, GenerationWork]
    output: Output


def verdicts_of(context: Context, benchmark: Benchmark, judged: dict[str, GenerationWork]) -> dict[str, Path]:
    """Where the verdicts on each contestant's responses lie; nothing where nobody judges."""
    return {work.name: work.output.folder for work in _verdict_work(context, benchmark, judged)}


def _batches(context: Context) -> Iterator[Batch[VerdictWork]]:
    """Each benchmark by itself."""
    for benchmark, judged in context.once(contest).judgements:
        against_whom = Path(benchmark.baseline).name if benchmark.fixed is not None else benchmark.baseline
        about = f"{len(judged)} models against {against_whom}, {benchmark.label}"
        yield Batch(about, _verdict_work(context, benchmark, judged))


def _verdict_work(context: Context, benchmark: Benchmark, judged: dict[str, GenerationWork]) -> list[VerdictWork]:
    if benchmark.judge is None:
        return []
    common = {"baseline": benchmark.baseline_key(judged), "judge": benchmark.judge.identity()}
    if _is_raced(context, benchmark):  # who is judged on what depends on all of them
        raced = [key for keys in _settings(context, judged).values() for key in keys]
        common["race"] = {key: judged[key].output.key for key in raced}
    return [
        VerdictWork(name, benchmark, judged, Output(context.at.verdicts, {"model": responses.output.key, **common}))
        for name, responses in judged.items()
    ]


def _is_raced(context: Context, benchmark: Benchmark) -> bool:
    """Whether a benchmark's judge leaves out what is clearly behind: by the first one settings are ranked."""
    first = context.once(contest).benchmarks[0]
    costly = benchmark.judge is not None and benchmark.judge.by_language
    return context.settings.evaluation.racing and costly and benchmark is first


def _settings(context: Context, judged: dict[str, GenerationWork]) -> dict[str, list[str]]:
    """Those of the trials that are judged, by setting."""
    settings = context.once(contest).settings
    return {setting: keys for setting, keys in settings.items() if all(key in judged for key in keys)}


def _race(context: Context, benchmark: Benchmark, judged: dict[str, GenerationWork]) -> Race | None:
    if not _is_raced(context, benchmark):
        return None
    settings = _settings(context, judged)
    raced = {key for keys in settings.values() for key in keys}
    return Race(benchmark.prompts, settings, [name for name in judged if name not in raced])


def _make(context: Context, missing: Sequence[VerdictWork]) -> str:
    benchmark = missing[0].benchmark
    judged = missing[0].judged
    judge = benchmark.judge
    assert judge is not None, "there is work only where somebody judges"
    prompts = read(benchmark.table).to_pylist()
    responses = {name: column(GENERATIONS.read(work.folder), "response") for name, work in judged.items()}
    against = list(benchmark.fixed) if benchmark.fixed is not None else responses[benchmark.baseline]
    others = [texts for name, texts in responses.items() if name != benchmark.baseline]
    if judge.by_language and others and all(texts == against for texts in others):
        raise _stopped(context, NOTHING_TO_JUDGE)
    race = _race(context, benchmark, judged)
    names = [work.name for work in missing] if race is None else list(judged)
    comparisons = Comparisons(prompts, against, {name: responses[name] for name in names})
    try:
        verdicts = judge.judge(comparisons, _resources(context), race)
    except JudgeError as error:
        raise _stopped(context, str(error), error.passing) from None
    for work in missing:
        rows = verdicts[work.name]
        _check_readable(context, comparisons, work.name, rows)
        work.output.seal(partial(_write_verdicts, rows))
    count = sum(len(verdicts[work.name]) for work in missing)
    whole = len(missing) * len(prompts)
    return f"{count} verdicts" if count == whole else f"{count} verdicts of {whole}: the others were clearly behind"


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
    judged = [
        row
        for row, (_, response, other) in zip(verdicts, comparisons.games(comparisons.responses[name]), strict=False)
        if response != other
    ]
    readable = sum(row["outcome"] is not None for row in judged)
    if 2 * readable >= len(judged):
        return
    unread = next(row for row in judged if row["outcome"] is None)
    comment = next((unread[key] for key in ("first_comment", "second_comment") if unread.get(key)), None)
    example = "" if comment is None else f", e.g. {' '.join(comment.split())[:120]!r}"
    raise InputError(
        f"evaluation.judge: only {readable} of {len(judged)} verdicts can be read{example}; "
        f"use another judge, judge.prompt or judge.parameters"
    )


def _stopped(context: Context, why: str, passing: bool = False) -> InputError:
    """What ends the stage; ``passing``: without anything being mended it may not end the next run."""
    kept = "the same command goes on" if passing else "what is judged is kept"
    return InputError(f"evaluation.judge: {why}; {kept}")


STAGE = OutputStage(
    name="judge",
    writes="verdicts against the baseline's responses",
    depends_on="both responses, the judge, its prompt and orders",
    engine="the judge",
    after=("generate",),
    elsewhere=True,
    batches=_batches,
    make=_make,
)
