"""The benchmark of a card, with models of no size, on a machine that has no Ray and nobody who checks settings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="TRL is not installed")

ROOT = Path(__file__).parents[2]
# Read by every Python that starts: what a bare machine lacks is not found.
BARE = """
import sys
from importlib.machinery import PathFinder

LACKING = {"ray", "pydantic", "pydantic_core", "optuna", "vllm", "deepspeed", "tensorboardX", "wandb", "mlflow"}


class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in LACKING else PathFinder.find_spec(name, path, target)


sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""


@pytest.mark.slow
def test_all_of_it_runs_on_a_bare_machine(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BARE)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    without_ray = subprocess.run(
        [sys.executable, "-c", "import ray"], env=environment, capture_output=True, check=False
    )
    assert without_ray.returncode == 1
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--tiny", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert {row["system"] for row in rows} == {"raydaa", "TRL"}
    assert len({row["work"] for row in rows}) * 2 == len(rows) == 6
    for row in rows:
        assert "failed" not in row
        assert min(row[name] for name in ("pairs/s", "tokens/s", "peak GB", "steps")) > 0
        assert "MFU" not in row  # nobody knows a CPU's peak
        assert row["loss"] == pytest.approx(0.693, abs=0.01)
        assert f"| {row['work']} | {row['system']} | {row['pairs/s']:.1f} |" in done.stdout
        if row["system"] == "raydaa":
            assert min(row[name] for name in ("reference pairs/s", "× TRL", "memory / TRL")) > 0
