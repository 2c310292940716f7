"""What the pages say of the code is so."""

import re
from pathlib import Path

import pytest

import raydaa
from raydaa.pipeline.survey import stages_table

ROOT = Path(raydaa.__file__).parents[1]
PAGES = [ROOT / "raydaa" / "docs" / "architecture.md", ROOT / ".github" / "CONTRIBUTING.md"]


def test_the_table_of_stages_is_the_stages_own() -> None:
    assert stages_table() in PAGES[0].read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_file_and_folder_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[\w.-]+/)*[\w.-]+(?:\.py|\.json|\.md|\.toml|/))`", text))
    assert len(named) > 10
    # Of a study's folder, not of the project.
    elsewhere = {"benchmarks.parquet", "study.yaml"}
    missing = [name for name in named - elsewhere if not ((ROOT / name).exists() or (ROOT / "raydaa" / name).exists())]
    assert missing == []


def test_each_room_says_who_may_use_it() -> None:
    for room in (ROOT / "raydaa").glob("*/__init__.py"):
        text = room.read_text(encoding="utf-8")
        assert "sed by" in text, f"{room.parent.name} does not say who may use it"


def test_the_rooms_are_all_on_the_page() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    rooms = [path.parent.name for path in (ROOT / "raydaa").glob("*/__init__.py")]
    assert [room for room in rooms if f"`{room}/`" not in text] == []
