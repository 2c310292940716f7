"""What a stage leaves: a sealed folder whose name says what its content depends on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from raydaa.store.artifacts import intact, key_of, make_folder
from raydaa.store.study_folder import OUTPUT, Record, RecordFile


@dataclass(frozen=True)
class Output:
    """One folder of a stage, below that of all the stage's.

    ``depends_on`` is all that its content depends on, and nothing else: never time, places or the machine.
    ``shared`` is where a mirror keeps it beside studies, if they share it; ``inside`` is the part of the folder that is
    sealed, where work leaves more beside it.
    """

    below: Path
    depends_on: Mapping[str, Any]
    shared: str | None = None
    inside: str = ""

    @cached_property
    def key(self) -> str:
        """The hash of what it depends on."""
        return key_of(**self.depends_on)

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.below / self.key / self.inside

    @property
    def done(self) -> bool:
        """Whether it is there, whole."""
        return intact(self.folder)

    def record(self, kind: type[Record]) -> Record:
        """The one record that it is, by `seal_record`."""
        record = RecordFile(self.folder / OUTPUT, kind).read()
        assert record is not None, "what is sealed is whole"
        return record

    def seal_record(self, record: Record) -> None:
        """Made of one record."""
        self.seal(lambda folder: RecordFile(folder / OUTPUT, type(record)).write(record))

    def seal(self, fill: Callable[[Path], None]) -> None:
        """Made by ``fill``, whole or not at all."""
        make_folder(self.folder, fill)
