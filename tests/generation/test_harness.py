"""Which tasks the LM Evaluation Harness finds."""

from pathlib import Path

import pytest

from raydaa.generation.harness import _tasks, unknown_tasks
from raydaa.settings.evaluation import HarnessSettings

pytest.importorskip("lm_eval", reason="lm_eval is not installed")


def test_a_folder_that_changed_is_looked_at_again(tmp_path: Path) -> None:
    """In one process, as in a notebook: what was found before may lie elsewhere now."""
    tree = {"tasks": ["choice"], "include_path": str(tmp_path)}
    settings = HarnessSettings.model_validate(tree, context={"allow_code": True})
    before, after = tmp_path / "before.yaml", tmp_path / "after.yaml"
    before.write_text("task: choice\ndataset_path: json\noutput_type: multiple_choice\n")
    assert unknown_tasks(settings) == []
    assert _tasks(settings) is _tasks(settings)
    before.rename(after)
    assert unknown_tasks(settings) == []
    assert _tasks(settings).task_index["choice"].yaml_path == after
