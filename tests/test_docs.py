"""What the pages say of the code is so."""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
    missing = [name for name in named if not ((ROOT / name).exists() or (ROOT / "raydaa" / name).exists())]
    assert missing == []


def test_each_room_says_who_may_use_it() -> None:
    for room in (ROOT / "raydaa").glob("*/__init__.py"):
        text = room.read_text(encoding="utf-8")
        assert "sed by" in text, f"{room.parent.name} does not say who may use it"


def test_the_rooms_are_all_on_the_page() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    rooms = [path.parent.name for path in (ROOT / "raydaa").glob("*/__init__.py")]
    assert [room for room in rooms if f"`{room}/`" not in text] == []


def _is_callable(value: object) -> bool:
    return inspect.isfunction(value) or inspect.ismethod(value)


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Functions, and methods that are defined in public classes."""
    from raydaa.testing import check_loss

    yield "check_loss", check_loss
    for name in raydaa.__all__:
        value = getattr(raydaa, name)
        if inspect.isfunction(value):
            yield name, value
        for method, found in inspect.getmembers(value, _is_callable) if inspect.isclass(value) else ():
            own = found.__module__.startswith("raydaa") and found.__qualname__.startswith(f"{name}.")
            if own and (not method.startswith("_") or method == "__call__") and found.__doc__:
                yield f"{name}.{method}", found


PUBLIC = dict(public())


def test_every_public_name_says_what_it_is() -> None:
    assert len(PUBLIC) > 15
    assert [name for name in raydaa.__all__ if not inspect.getdoc(getattr(raydaa, name))] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_arguments_and_what_comes_back_are_described(name: str) -> None:
    function = PUBLIC[name]
    text, signature = inspect.getdoc(function) or "", inspect.signature(function)
    arguments = [name for name in signature.parameters if name != "self"]
    described = re.findall(r"^    \*{0,2}(\w+): ", text.partition("Args:")[2], re.M)
    assert [each for each in arguments if each not in described] == []
    if arguments and signature.return_annotation not in (None, "None"):
        assert "Returns:" in text or "Yields:" in text
