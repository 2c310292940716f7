"""Ray's own callbacks for the experiment trackers that a study asks for."""

import os
from pathlib import Path

from ray import tune

from raydaa.settings import TrackingSettings

PLUMBING = ["folder", "threads", "methods", "workers", "steps", "reached"]  # of a trial's configuration


def trackers(tracking: TrackingSettings, study: str, folder: Path) -> list[tune.Callback]:
    """A callback for each tracker; every trial is a run of its own there."""
    found: list[tune.Callback] = []
    if tracking.mlflow is not None:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        uri, experiment = tracking.mlflow.uri or f"sqlite:///{folder / 'mlflow.db'}", tracking.mlflow.experiment
        found.append(MLflowLoggerCallback(tracking_uri=uri, experiment_name=experiment or study))
    if tracking.wandb is not None:
        from ray.air.integrations.wandb import WandbLoggerCallback

        os.environ["WANDB_MODE"] = tracking.wandb.mode
        place = folder / "wandb"
        place.mkdir(exist_ok=True)
        more = {"dir": str(place), "mode": tracking.wandb.mode, "entity": tracking.wandb.entity}
        found.append(WandbLoggerCallback(tracking.wandb.project, group=study, excludes=PLUMBING, **more))
    return found
