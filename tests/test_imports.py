"""Importing the package, and the parts that must not need the heavy libraries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import raydaa

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
        ("import raydaa.training.run, raydaa.data.prepare", {"torch", "numpy", "pyarrow"}),
    ],
)
def test_loads_no_more_than(statement: str, allowed: set[str]) -> None:
    assert loaded_after(statement) <= allowed


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'lose'"):
        _ = raydaa.lose


USE = """
from raydaa import Study, TrialResults, loss

results: TrialResults = Study.load("study.yaml").run()
reveal_type(results.best("dpo").win_rate)
reveal_type(loss("dpo", beta=0.1))
reveal_type(Study.load("study.yaml"))
"""


@pytest.mark.slow
def test_a_type_checker_sees_what_is_public(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    (tmp_path / "use.py").write_text(USE)
    root = Path(raydaa.__file__).parents[1]
    # As the project is checked: into torch and the like nobody looks.
    command = [sys.executable, "-m", "mypy", "--config-file", str(root / "pyproject.toml")]
    command += ["--cache-dir", str(tmp_path / "cache"), "use.py"]
    there = {**os.environ, "MYPYPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, env=there, capture_output=True, text=True, check=False)
    kinds = [line.partition("is ")[2].strip('"') for line in done.stdout.splitlines() if "Revealed type" in line]
    assert kinds == ["float | None", "raydaa.algorithms.method.Method", "raydaa.pipeline.study.Study"], done.stdout
