"""Experiment trackers hear of every trial when a study asks."""

from pathlib import Path

import pytest

from raydaa.results import TrialResults
from tests.command import Command
from tests.studies import begun, done, micro, written


@pytest.mark.slow
def test_mlflow_and_wandb_have_a_run_for_each_trial(command: Command, undisturbed: tuple[Path, str]) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    pytest.importorskip("wandb", reason="wandb is not installed")
    folder = begun(undisturbed[0], command.folder / "tracked")
    tree = micro(name="tracked", evaluation={"judge": "none", "judge_trials": "best_per_method", "models": []})
    tree["search"]["methods"] = [{"name": "dpo", "beta": [0.1]}]
    tree["scaling"] = {"concurrent_trials": 1}
    tree["tracking"] = {"mlflow": {}, "wandb": {"project": "trials", "mode": "offline"}}
    done(command.run("run", str(written(command.folder, tree)), "--output", str(folder)))
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tracked")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    rows = {row.label: row for row in TrialResults.load(folder)}
    assert runs.keys() == rows.keys()
    for label, row in rows.items():
        assert float(runs[label].data.params["point/learning_rate"]) == row.learning_rate
        assert float(runs[label].data.params["point/parameters/beta"]) == row.beta
        metrics = runs[label].data.metrics
        assert metrics["validation/loss"] == pytest.approx(row.validation_loss)
        assert metrics["step"] == row.step
    logs = list((folder / "wandb").glob("wandb/offline-run-*/run-*.wandb"))
    assert len(logs) == len(rows)
    for label in rows:
        assert any(label.encode() in log.read_bytes() for log in logs)


def test_a_tracker_that_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raydaa.pipeline import checks
    from raydaa.settings_file import InputError
    from raydaa.study import Study

    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    settings = Study.from_tree(micro(tracking={"mlflow": {}})).settings
    with pytest.raises(InputError, match=r"tracking.mlflow: mlflow is not installed; pip install 'raydaa\[mlflow\]'"):
        checks.check_models(settings, tmp_path)
