"""Responses beside the baseline's, with what judges said of them."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from raydaa.evaluation.figures import BenchmarkFigures, BenchmarkInfo
from raydaa.results import TrialResults
from raydaa.store.tables import GENERATIONS, VERDICTS, TableFile, make_schema, read

ROOM = 4_000_000  # characters of responses in a page
QUESTION = ("benchmark", "prompt_id", "question", "baseline")
VERDICT = ("outcome", "first", "second", "first_comment", "second_comment")
ANSWER = ("model", "trial", "response", *VERDICT)
SCHEMA = make_schema(
    [
        ("benchmark", pa.string()),
        ("model", pa.string()),  # a trial's label, or the name of a model judged beside the trials
        ("trial", pa.string()),  # its key; null for such a model
        ("prompt_id", pa.string()),
        ("question", pa.string()),
        ("response", pa.string()),
        ("baseline", pa.string()),
        ("outcome", pa.float64()),  # of the response against the baseline's, in [0, 1]
        ("first", pa.float64()),  # with the response shown first, and second
        ("second", pa.float64()),
        ("first_comment", pa.string()),
        ("second_comment", pa.string()),
    ]
)


def samples(results: TrialResults) -> pa.Table:
    """Every response of the models that somebody may choose, and of those judged beside them."""
    rows = [row for judged in results.benchmarks for row in _on(results, judged)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def shown(table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """What a page has room for, in two lists: ``questions`` with the baseline's responses, from the first of each
    benchmark on, and the ``answers`` to them."""
    rows = table.to_pylist()
    questions: dict[tuple[str, str], dict[str, Any]] = {}
    sizes: dict[tuple[str, str], int] = {}
    for row in rows:
        prompt = (row["benchmark"], row["prompt_id"])
        if prompt not in questions:
            questions[prompt] = {name: row[name] for name in QUESTION}
        sizes[prompt] = sizes.get(prompt, _size(questions[prompt])) + _size({name: row[name] for name in ANSWER})
    benchmarks = {name for name, _ in questions}
    room = dict.fromkeys(benchmarks, ROOM / max(1, len(benchmarks)))
    kept: set[tuple[str, str]] = set()
    for prompt, size in sizes.items():
        room[prompt[0]] -= size
        if room[prompt[0]] >= 0:
            kept.add(prompt)
    answers = [row for row in rows if (row["benchmark"], row["prompt_id"]) in kept]
    return {
        "questions": [question for prompt, question in questions.items() if prompt in kept],
        "answers": [{name: row[name] for name in ("benchmark", "prompt_id", *ANSWER)} for row in answers],
    }


def _size(row: dict[str, Any]) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, str))


def _on(results: TrialResults, info: BenchmarkInfo) -> Iterator[dict[str, Any]]:
    models: list[tuple[str, str | None, dict[str, BenchmarkFigures]]]
    models = [(row.label, row.key, row.benchmarks) for row in results.worth_keeping()]
    models += [(f"({name})", None, model.benchmarks) for name, model in results.models.items() if name != info.baseline]
    questions = results.folder / info.questions
    if not questions.is_file():
        return
    questions_by_id = {row["prompt_id"]: row for row in read(questions).to_pylist()}
    for model, key, benchmarks in models:
        figures = benchmarks.get(info.name)
        if figures is None:
            continue
        verdicts = {row["prompt_id"]: row for row in _rows(results, figures.verdicts, VERDICTS)}
        for row in _rows(results, figures.answers, GENERATIONS):
            verdict = verdicts.get(row["prompt_id"], {})
            yield {
                **questions_by_id[row["prompt_id"]],
                **{name: verdict.get(name) for name in VERDICT},
                "benchmark": info.name,
                "model": model,
                "trial": key,
                "response": row["response"],
            }


def _rows(results: TrialResults, folder: str | None, table: TableFile) -> list[dict[str, Any]]:
    """Of a folder below the study's; none where it is not there."""
    if folder is None or not table.is_in(results.folder / folder):
        return []
    return list(table.read(results.folder / folder).to_pylist())
