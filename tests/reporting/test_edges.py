"""Best settings at the end of what was tried, and how the search would go on from there."""

import json
from pathlib import Path

import pytest

from raydaa.reporting.edges import _further, edges
from raydaa.reporting.results import TrialResults
from raydaa.store.artifacts import write_json
from tests.reporting.folders import hostile_study


@pytest.mark.parametrize(
    ("value", "neighbour", "steps", "expected"),
    [
        (1e-3, 3e-4, 1, (0.0033,)),
        (3e-4, 1e-3, 2, (9e-5, 2.7e-5)),
        (0.2, 0.1, 2, (0.4, 0.8)),
        (0.0, 0.5, 1, (-0.5,)),
    ],
)
def test_it_goes_on_as_far_again(value: float, neighbour: float, steps: int, expected: tuple[float, ...]) -> None:
    assert _further(value, neighbour, steps) == pytest.approx(expected)


def test_a_best_setting_at_the_end_is_named(tmp_path: Path) -> None:
    """Of dpo another trial at a lower rate, which was stopped: what is beyond 0.001 nobody knows."""
    hostile_study(tmp_path)
    listed = json.loads((tmp_path / "trials.json").read_text())
    (first,) = [trial for trial in listed["trials"] if trial["key"] == "a"]
    stopped = {**first, "key": "lower", "state": "stopped", "point": {**first["point"], "learning_rate": 1e-4}}
    write_json(tmp_path / "trials.json", {**listed, "trials": [*listed["trials"], stopped]})
    (edge,) = [edge for edge in edges(TrialResults.load(tmp_path)) if edge.row.key == "a"]
    assert (edge.name, edge.value, edge.highest, edge.neighbour) == ("learning rate", 1e-3, True, 1e-4)
    assert str(edge).endswith("learning rate 0.001 is the highest tried, 0.0001 was stopped early; try 0.01")
