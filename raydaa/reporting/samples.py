"""Responses beside the baseline's, with what judges said of them."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from raydaa.records import read
from raydaa.results import Judged, TrialResults

ROOM = 4_000_000  # characters of responses in a page
VERDICT = ("outcome", "first", "second", "first_comment", "second_comment")
SCHEMA = pa.schema(
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


def shown(table: pa.Table) -> list[dict[str, Any]]:
    """The responses to as many prompts of each benchmark, from its first on, as a page has room for."""
    rows = table.to_pylist()
    share = ROOM / max(1, len({row["benchmark"] for row in rows}))
    kept, sizes, order = set[tuple[str, str]](), dict[str, int](), dict[tuple[str, str], int]()
    for row in rows:
        prompt = (row["benchmark"], row["prompt_id"])
        order[prompt] = order.get(prompt, 0) + sum(len(value) for value in row.values() if isinstance(value, str))
    for prompt, size in order.items():
        sizes[prompt[0]] = sizes.get(prompt[0], 0) + size
        if sizes[prompt[0]] <= share:
            kept.add(prompt)
    return [row for row in rows if (row["benchmark"], row["prompt_id"]) in kept]


def _on(results: TrialResults, judged: Judged) -> Iterator[dict[str, Any]]:
    chosen = [(row.label, row.key, row.benchmarks) for row in results.worth_keeping()]
    models = [(f"({name})", None, figures) for name, figures in results.models.items() if name != judged.baseline]
    questions = results.folder / judged.questions
    if not questions.is_file():
        return
    asked = {row["prompt_id"]: row for row in read(questions).to_pylist()}
    for model, key, benchmarks in [*chosen, *models]:
        figures = benchmarks.get(judged.name, {})
        responses = results.folder / str(figures.get("responses")) / "responses.parquet"
        verdicts = results.folder / str(figures.get("verdicts")) / "verdicts.parquet"
        said = {row["prompt_id"]: row for row in read(verdicts).to_pylist()} if verdicts.exists() else {}
        for row in read(responses).to_pylist() if responses.exists() else []:
            verdict = said.get(row["prompt_id"], {})
            yield {
                **asked[row["prompt_id"]],
                **{name: verdict.get(name) for name in VERDICT},
                "benchmark": judged.name,
                "model": model,
                "trial": key,
                "response": row["response"],
            }
