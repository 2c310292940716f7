"""Locals say what they hold."""

import ast
from pathlib import Path

import raydaa

ROOM = Path(raydaa.__file__).parent
VAGUE = {"found", "made", "told", "asked", "place", "each", "begun", "mine", "said", "given"}


def vague_names(source: str) -> list[tuple[int, str]]:
    """Lines that give one of the names to something of theirs."""
    bound: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.append((node.lineno, node.id))
        elif isinstance(node, ast.arg):
            bound.append((node.lineno, node.arg))
    return [(line, name) for line, name in bound if name in VAGUE]


def test_no_local_has_a_name_that_says_nothing() -> None:
    bound = {path: vague_names(path.read_text(encoding="utf-8")) for path in ROOM.rglob("*.py")}
    assert {str(path.relative_to(ROOM)): names for path, names in bound.items() if names} == {}


def test_such_names_are_seen() -> None:
    assert vague_names("def f(told):\n    for place in told:\n        found = place\n") == [
        (1, "told"),
        (2, "place"),
        (3, "found"),
    ]
