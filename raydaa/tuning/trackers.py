"""Ray's own callbacks for the experiment trackers that a study asks for."""

import logging
import os
from typing import Any

from ray import tune

from raydaa.compat.ray_tune import patient_wandb
from raydaa.errors import first_line
from raydaa.settings.study import TrackingSettings
from raydaa.store.study_folder import StudyFolder
from raydaa.tuning.trial import ASSIGNMENT

logger = logging.getLogger(__name__)


class Tracker(tune.Callback):
    """One of Ray's callbacks, whose errors are told and end no sweep.

    Tune reports the end of trials whose actor died before they started: of those the callback knows nothing.
    """

    def __init__(self, name: str, callback: tune.Callback) -> None:
        self.name = name
        self.callback = callback
        self.started: set[str] = set()

    def setup(self, **info: Any) -> None:
        self.callback.setup(**info)

    def _tell(self, hook: str, **info: Any) -> None:
        try:
            getattr(self.callback, hook)(**info)
        except Exception as error:  # whatever the tracker's client raises
            logger.warning("tracking  %s: %s", self.name, first_line(error))

    def on_trial_start(self, **info: Any) -> None:
        self.started.add(info["trial"].trial_id)
        self._tell("on_trial_start", **info)

    def on_trial_result(self, **info: Any) -> None:
        self._tell("on_trial_result", **info)

    def on_trial_complete(self, **info: Any) -> None:
        if info["trial"].trial_id in self.started:
            self._tell("on_trial_complete", **info)

    def on_trial_error(self, **info: Any) -> None:
        if info["trial"].trial_id in self.started:
            self._tell("on_trial_error", **info)

    def on_experiment_end(self, **info: Any) -> None:
        self._tell("on_experiment_end", **info)


def trackers(tracking: TrackingSettings, study: str, at: StudyFolder) -> dict[str, Tracker]:
    """A callback for each tracker, by its name; every trial is a run of its own there."""
    callbacks: dict[str, tune.Callback] = {}
    if tracking.mlflow is not None:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        uri = tracking.mlflow.uri or f"sqlite:///{at.mlflow}"
        experiment = tracking.mlflow.experiment
        callbacks["mlflow"] = MLflowLoggerCallback(tracking_uri=uri, experiment_name=experiment or study)
    if tracking.wandb is not None:
        os.environ["WANDB_MODE"] = tracking.wandb.mode
        at.wandb.mkdir(exist_ok=True)
        more = {"dir": str(at.wandb), "mode": tracking.wandb.mode, "entity": tracking.wandb.entity}
        callbacks["wandb"] = patient_wandb()(tracking.wandb.project, group=study, excludes=[ASSIGNMENT], **more)
    return {name: Tracker(name, callback) for name, callback in callbacks.items()}
