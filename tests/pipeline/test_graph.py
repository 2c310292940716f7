"""The order of stages, and that a file is all that a new one takes."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import raydaa
from raydaa.pipeline import graph, stages
from raydaa.pipeline.graph import all_stages, before
from raydaa.pipeline.survey import stages_table

PAGE = Path(raydaa.__file__).parent / "docs" / "architecture.md"


def forget_stages() -> None:
    graph._found_stages.cache_clear()
    all_stages.cache_clear()


@pytest.fixture
def more_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose modules are stages as well."""
    monkeypatch.setattr(stages, "__path__", [*stages.__path__, str(tmp_path)])
    forget_stages()
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(f"{stages.__name__}.{path.stem}", None)
    forget_stages()


def test_every_stage_comes_after_those_it_needs() -> None:
    names = [stage.name for stage in all_stages()]
    assert (names[0], names[-1]) == ("prepare", "report")
    for number, stage in enumerate(all_stages()):
        assert set(before(stage)) <= set(names[:number]), stage.name


def test_what_keeps_the_clusters_machines_busy_comes_first() -> None:
    names = [stage.name for stage in all_stages()]
    assert names.index("score") < names.index("judge")


def test_the_stage_on_the_page_is_found_by_its_file(more_stages: Path) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (more_stages / "words.py").write_text(source, encoding="utf-8")
    names = [stage.name for stage in all_stages()]
    assert names.index("generate") < names.index("words") < names.index("report") == len(names) - 1
    assert "| `words` | how many words each model's responses have | responses | this process |" in stages_table()
