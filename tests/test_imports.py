"""Importing the package, and the parts that must not need the heavy libraries."""

import subprocess
import sys

import pytest

HEAVY = ["torch", "ray", "deepspeed", "vllm", "transformers", "optuna", "pyarrow", "datasets", "numpy"]


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint([m for m in {HEAVY} if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(eval(output))  # a list that this test itself printed


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import raydaa", set()),
        ("import raydaa.cli; raydaa.cli.parser()", set()),
        ("from raydaa import loss, PairLogps", {"torch", "numpy"}),
        ("import raydaa.evaluation.win_rate, raydaa.evaluation.kl, raydaa.evaluation.pareto", {"numpy"}),
        ("import raydaa.study, raydaa.settings.study", set()),
        ("import raydaa.training.loop, raydaa.data.prepare", {"torch", "numpy", "pyarrow"}),
    ],
)
def test_loads_no_more_than(statement: str, allowed: set[str]) -> None:
    assert loaded_after(statement) <= allowed


def test_unknown_name_is_an_attribute_error() -> None:
    import raydaa

    with pytest.raises(AttributeError, match="has no attribute 'lose'"):
        _ = raydaa.lose
