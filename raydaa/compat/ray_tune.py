"""Ray Tune, 2.60."""

import os
from pathlib import Path
from typing import Any

PATIENCE = 20.0  # seconds


def set_options() -> None:
    """Ctrl-C reaches the pipeline, which says how to go on; and Tune draws no picture of its state: trial folders are
    that, and at a few hundred trials it takes seconds and 300 MB."""
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "inf"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # that one has a reporter of its own, except in notebooks


def silent_reporter() -> Any:
    """Tune shows nothing. In a notebook it would clear the cell first, and with it what the study has said."""
    from ray.tune import ProgressReporter

    class Silent(ProgressReporter):
        def should_report(self, trials: list[Any], done: bool = False) -> bool:
            return False

        def report(self, trials: list[Any], done: bool, *sys_info: str) -> None:
            """Nothing."""

    return Silent()


def share_processes() -> None:
    """Trials run in any waiting process.

    A variable that Lightning wants gives trials an environment of their own, and Ray's waiting processes lack it: each
    trial would start one of its own, 5 s of imports.
    """
    from ray.tune.execution import class_cache

    class_cache.DEFAULT_ENV_VARS.clear()


def error_text(trial: Any) -> str:
    """The traceback of a trial that failed. Tune's own ``get_error`` looks where it is copied to, later."""
    return Path(trial.error_file).read_text(encoding="utf-8")


def waiting_trials(controller: Any) -> list[Any]:
    """Trials of Tune's that can be started: schedulers are given no list of them."""
    return [trial for trial in controller.get_trials() if trial.status in (trial.PENDING, trial.PAUSED)]


def stop_trial(controller: Any, trial: Any) -> None:
    """End a trial that waits; a scheduler may stop only one that reports."""
    controller.stop_trial(trial)


def patient_wandb() -> Any:
    """Ray's callback for W&B, but for the end of a run: its own kills the actor there, and with it W&B's service, which
    may not have written the run down yet.

    The actor is not asked to end itself either: a worker of Ray's that exits so may wait for itself forever.
    """
    import ray
    from ray.air.integrations.wandb import WandbLoggerCallback

    class Patient(WandbLoggerCallback):
        def _cleanup_logging_actor(self, trial: Any) -> None:
            actor = self._trial_logging_actors[trial]
            ray.wait([actor.__ray_call__.remote(_end_service)], timeout=PATIENCE)
            super()._cleanup_logging_actor(trial)

    return Patient


def _end_service(_: Any) -> None:
    """In the actor: W&B's service writes down what it has, and ends."""
    import wandb

    wandb.teardown()
