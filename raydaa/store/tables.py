"""The tables that stages hand each other: Arrow schemas, and how they are read and written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Columns = list[tuple[str, pa.DataType]]


def make_schema(columns: Columns) -> pa.Schema:
    """Names and types."""
    return pa.schema(columns)


@dataclass(frozen=True)
class TableFile:
    """The one table of a sealed folder: what it is called, and its columns."""

    name: str
    schema: pa.Schema

    def read(self, folder: Path) -> pa.Table:
        """The table in ``folder``."""
        return read(folder / self.name)

    def is_in(self, folder: Path) -> bool:
        """Whether ``folder`` holds one."""
        return (folder / self.name).exists()

    def write(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        """Rows as the table of ``folder``; a column that a row lacks is null."""
        write(folder / self.name, rows, self.schema)


PREPARED_REPORT, PREPARED_REJECTS = "report.json", "rejects.jsonl"  # beside prepared tables
TOKENS = pa.list_(pa.int32())

PAIRS = make_schema(
    [
        ("pair_id", pa.int64()),  # row number in the source, from 1
        ("prompt_tokens", TOKENS),
        ("chosen_tokens", TOKENS),
        ("rejected_tokens", TOKENS),
    ]
)
HELD_OUT = TableFile(
    "held-out.parquet",
    make_schema([("row", pa.int64()), ("preference_loss", pa.float64())]),  # of the validation pairs at a trial's end
)
EXAMPLES = make_schema([("example_id", pa.int64()), ("tokens", TOKENS), ("scored", pa.list_(pa.bool_()))])
PROMPTS = make_schema(
    [
        ("prompt_id", pa.string()),
        ("row", pa.int64()),  # number in the source, from 1
        ("question_id", pa.string()),  # what the source calls it; null where it has no name for it
        ("question", pa.string()),  # as a judge reads it: the user's turn, or the whole conversation before the answer
        ("messages", pa.string()),  # the conversation as JSON
        ("prompt", pa.string()),  # as the model reads it, template applied
        ("prompt_tokens", TOKENS),
        ("chosen", pa.string()),  # the response that stands beside it; null where there is none
    ]
)
QUESTIONS = TableFile(
    "questions.parquet",
    make_schema(
        [
            ("prompt_id", pa.string()),
            ("question", pa.string()),
            ("baseline", pa.string()),  # the response that answers are compared with; null where nobody judges
        ]
    ),
)
REFERENCE = make_schema([("pair_id", pa.int64()), ("chosen_logp", pa.float64()), ("rejected_logp", pa.float64())])
GENERATIONS = TableFile(
    "responses.parquet",
    make_schema(
        [
            ("prompt_id", pa.string()),
            ("response", pa.string()),
            ("tokens", TOKENS),
            ("logp", pa.float64()),  # Σ log π_θ of the tokens, raw (no temperature, no top-k), nats
            ("cut", pa.bool_()),  # stopped by max_new_tokens, not by end-of-sequence
        ]
    ),
)
REWARDS = TableFile(
    "rewards.parquet",
    make_schema([("reward", pa.float64())]),
)
SCORES = TableFile(
    "scores.parquet",
    make_schema(
        [
            ("prompt_id", pa.string()),
            ("logp", pa.float64()),  # Σ log π of the tokens, raw, nats
            ("start_logp", pa.float64()),  # the same under what the model started from
            ("kl", pa.float64()),  # Σ KL between what both would write next, nats
        ]
    ),
)
ORDERS = ("first", "second")  # where the model's response stood; columns of verdicts begin so
VERDICTS = TableFile(
    "verdicts.parquet",
    make_schema(
        [
            ("prompt_id", pa.string()),
            ("outcome", pa.float64()),  # of the model against the baseline, in [0, 1]; null where nothing could be read
            ("score", pa.float64()),  # both rewards, where the judge is a function
            ("baseline_score", pa.float64()),
            ("first", pa.float64()),  # the outcome with the model's response first, and second, where a model judged
            ("second", pa.float64()),
            ("first_weight", pa.float64()),  # what these games weigh in ArenaHard's score
            ("second_weight", pa.float64()),
            ("first_comment", pa.string()),
            ("second_comment", pa.string()),
            ("prompt_tokens", pa.int64()),  # that a model was sent for both, by its own count; null where none judged
            ("completion_tokens", pa.int64()),  # that it wrote
        ]
    ),
)


def write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    """Rows as Parquet; a column of the schema that a row lacks is null."""
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def read(path: Path) -> pa.Table:
    """A Parquet table."""
    return pq.read_table(path)


def column(table: pa.Table, name: str) -> list[Any]:
    """A column as Python values."""
    return list(table[name].to_pylist())
