"""What models are judged on: prompts, how they are answered, by whom and against what they are judged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydaa.data.files import read_rows
from raydaa.data.rows import DataError
from raydaa.errors import InputError
from raydaa.generation.sample import Sampling
from raydaa.judging.judge import Judge, judge_of
from raydaa.pipeline.context import Context
from raydaa.pipeline.prepared import Prepared, prepared_data
from raydaa.settings.evaluation import CHOSEN, BenchmarkSettings, is_model
from raydaa.settings.judge import JudgeSettings
from raydaa.settings.study import StudySettings
from raydaa.store.artifacts import key_of
from raydaa.store.tables import read

if TYPE_CHECKING:
    from raydaa.pipeline.responses import GenerationWork


@dataclass(frozen=True)
class Benchmark:
    """One of a study's benchmarks, with everything decided.

    ``fixed`` are the baseline's responses where no model of the study gives them.
    """

    name: str
    table: Path
    key: str  # of the prompts
    prompts: int
    sampling: Sampling
    baseline: str
    fixed: tuple[str, ...] | None
    judge: Judge[Any] | None  # None: nobody's
    settings: BenchmarkSettings

    @property
    def judge_title(self) -> str:
        """Who judges."""
        return "not judged" if self.judge is None else self.judge.title

    @property
    def label(self) -> str:
        """Its name, and who judges."""
        return f"{self.name} ({self.judge_title})"

    def before(self, judge: JudgeSettings) -> "Benchmark":
        """The same responses judged by another."""
        other = self.settings.model_copy(update={"judge": judge}).judged_by(judge)
        return replace(self, judge=judge_of(other))

    def baseline_key(self, judged: Mapping[str, "GenerationWork"]) -> str | None:
        """What the baseline's responses depend on; None where nobody judges."""
        if self.judge is None:
            return None
        return key_of(responses=self.fixed) if self.fixed is not None else judged[self.baseline].output.key


def benchmarks(context: Context) -> list[Benchmark]:
    """The study's, in its order: trials are ranked by the first."""
    return [_benchmark(context, settings) for settings in context.settings.evaluation.benchmarks]


def _benchmark(context: Context, settings: BenchmarkSettings) -> Benchmark:
    prepared = context.once(prepared_data)
    evaluation = context.settings.evaluation
    chosen = settings.judged_by(evaluation.judge)
    judge = judge_of(chosen) if chosen.judges else None
    fixed = None if judge is None else fixed_baseline(context.settings, prepared, settings)
    return Benchmark(
        name=settings.name,
        table=prepared.table(settings.group),
        key=prepared.keys[settings.group],
        prompts=prepared.rows[settings.group],
        sampling=Sampling(**settings.sampling(context.settings.generation).model_dump()),
        baseline=evaluation.baseline_of(settings),
        fixed=fixed,
        judge=judge,
        settings=settings,
    )


def fixed_baseline(settings: StudySettings, prepared: Prepared, benchmark: BenchmarkSettings) -> tuple[str, ...] | None:
    """The response that each prompt's are compared with; None where a model of the study gives it.

    InputError where a prompt has none.
    """
    baseline = settings.evaluation.baseline_of(benchmark)
    if is_model(baseline):
        return None
    rows = read(prepared.table(benchmark.group)).to_pylist()
    find: Callable[[dict[str, Any]], str | None] = lambda row: row["chosen"]  # noqa: E731
    if baseline != CHOSEN:
        try:
            find = partial(_answer, _answers(baseline))
        except DataError as error:
            raise InputError(f"{benchmark.name}: baseline: {error}") from None
    responses = [find(row) for row in rows]
    missing = [
        row["question_id"] or row["question"] for row, answer in zip(rows, responses, strict=True) if answer is None
    ]
    if missing:
        raise InputError(
            f"{benchmark.name}: baseline: {baseline!r} has no response to {len(missing)} of {len(rows)} prompts, "
            f"the first {str(missing[0])[:60]!r}; use a model, or a file of responses"
        )
    return tuple(str(answer) for answer in responses)


def _answers(source: str) -> dict[str, str]:
    """Responses in a file, by their question's id and by its text: AlpacaEval's outputs, or ArenaHard's answers."""
    answers: dict[str, str] = {}
    for _, row in read_rows(source, "train").rows:
        answer = _answer_in(row)
        if answer is not None:
            names = (row.get(name) for name in ("question_id", "uid", "instruction", "prompt", "question"))
            answers |= {name: answer for name in names if isinstance(name, str)}
    return answers


def _answer_in(row: dict[str, Any]) -> str | None:
    """The response of a row, in any of the layouts that the benchmarks' own tools have had."""
    answer = row.get("output", row.get("response"))
    try:
        if answer is None and "choices" in row:
            answer = row["choices"][0]["turns"][0]["content"]
        elif answer is None and "messages" in row:
            answer = row["messages"][-1]["content"]
        if isinstance(answer, dict):
            answer = answer["answer"]
    except (KeyError, IndexError, TypeError):
        return None
    return answer if isinstance(answer, str) else None


def _answer(answers: dict[str, str], row: dict[str, Any]) -> str | None:
    return answers.get(row["question_id"] or row["question"], answers.get(row["question"]))
