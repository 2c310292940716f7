"""Verdicts that were paid for, in a Parquet dataset that studies share: none is asked for twice."""

import logging
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raydaa.store.artifacts import key_of, replacing
from raydaa.store.tables import make_schema

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ruling:
    """What a judge said of one ordered pair of responses; ``outcome`` is the first one's, None where unreadable."""

    key: str
    judge: str
    prompt_name: str
    prompt_version: int
    outcome: float | None
    weight: float
    text: str
    prompt_tokens: int
    completion_tokens: int


SCHEMA = make_schema(
    [
        ("key", pa.string()),
        ("judge", pa.string()),
        ("prompt_name", pa.string()),
        ("prompt_version", pa.int64()),
        ("outcome", pa.float64()),
        ("weight", pa.float64()),
        ("text", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
    ]
)
COLUMNS = [field.name for field in fields(Ruling)]


def ruling_key(prompt: str, first: str, second: str, judge: str, prompt_name: str, prompt_version: int) -> str:
    """Texts, their order, the judge, and what it was asked."""
    return key_of(
        prompt=prompt, first=first, second=second, judge=judge, prompt_name=prompt_name, prompt_version=prompt_version
    )


class VerdictCache:
    """All rulings in ``folder``, whoever wrote them; every `add` is a file of its own, there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rulings: dict[str, Ruling] = {}
        for path in sorted(folder.glob("*.parquet")):
            try:
                rows = pq.read_table(path, columns=COLUMNS).to_pylist()
            except (OSError, pa.ArrowInvalid, KeyError):
                logger.warning("%s is damaged and is not used", path)
                continue
            self.rulings |= {row["key"]: Ruling(**row) for row in rows}

    def add(self, rulings: Iterable[Ruling]) -> None:
        """Keep what was just said."""
        rulings = list(rulings)
        if not rulings:
            return
        table = pa.Table.from_pylist([asdict(ruling) for ruling in rulings], schema=SCHEMA)
        with replacing(self.folder / f"{uuid.uuid4().hex}.parquet") as file:
            pq.write_table(table, file)
        self.rulings |= {ruling.key: ruling for ruling in rulings}

    def export(self, path: Path) -> None:
        """Everything as one Parquet file."""
        table = pa.Table.from_pylist([asdict(ruling) for ruling in self.rulings.values()], schema=SCHEMA)
        with replacing(path) as file:
            pq.write_table(table, file)
