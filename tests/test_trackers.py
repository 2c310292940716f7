"""Experiment trackers that a study asks for; what they hear of, `test_whole` shows."""

from pathlib import Path

import pytest

from tests.studies import micro


def test_a_tracker_that_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raydaa.compat import imports
    from raydaa.errors import InputError
    from raydaa.pipeline import checks
    from raydaa.study import Study

    monkeypatch.setattr(imports, "find_spec", lambda name: None)
    settings = Study.from_tree(micro(tracking={"mlflow": {}})).settings
    with pytest.raises(InputError, match=r"tracking.mlflow: mlflow is not installed; pip install 'raydaa\[mlflow\]'"):
        checks.check_models(settings, tmp_path)
