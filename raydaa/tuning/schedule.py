"""The sweep on Ray Tune: a searcher hands its trials out, a scheduler pauses and stops them at rungs."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from raydaa.compat import ray_tune
from raydaa.compat.ray import ON_HEAD
from raydaa.errors import MachineError, machine_error
from raydaa.store.artifacts import write_json
from raydaa.store.records import LOST, TrialRecord, TrialState
from raydaa.training.checkpoint import newest_first, step_of
from raydaa.training.spec import Recipe, RunSpec
from raydaa.training.workers import Workers
from raydaa.tuning.search_space import label_of
from raydaa.tuning.sweep import Sweep
from raydaa.tuning.swept_trial import SweptTrial
from raydaa.tuning.trial import ASSIGNMENT, KEY, POINT, Assignment, GroupTrial, OneWorkerTrial

Limit = Callable[[], int]


class _NotWritten:
    """Tune writes its searcher and scheduler down and never reads them here: trial folders are the state.

    What these know of the run, a notebook's output stream among it, need not be of a kind that can be written.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Points(_NotWritten, Searcher):
    """Hands the sweep's trials to Tune, never more than ``limit()`` at a time."""

    def __init__(
        self,
        sweep: Sweep,
        spec_of: Callable[[SweptTrial, Recipe], RunSpec],
        configure: Callable[[SweptTrial], dict[str, Any]],
        limit: Limit,
    ) -> None:
        super().__init__()
        self.sweep = sweep
        self.spec_of = spec_of
        self.configure = configure
        self.limit = limit

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        trial = self.sweep.next_trial() if self.sweep.running < self.limit() and not self.sweep.winners() else None
        if trial is None:
            return Searcher.FINISHED if self.sweep.over else None
        self.sweep.start(trial)
        trial.folder.path.mkdir(parents=True, exist_ok=True)
        trial.folder.record.write(TrialRecord(trial.state))  # in the place of one that no longer holds
        write_json(trial.folder.spec, self.spec_of(trial, self.sweep.recipe_of(trial)).to_json())
        return self.configure(trial)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The scheduler has heard it already."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the trial folders are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the trial folders are the state."""


class _Brackets(_NotWritten, TrialScheduler):
    """Pauses trials at rungs until their bracket has decided, and has those handed out again that failed."""

    def __init__(
        self, sweep: Sweep, limit: Limit, max_failures: int, notify: Callable[[SweptTrial, dict[str, Any]], None]
    ) -> None:
        super().__init__()
        self.sweep = sweep
        self.limit = limit
        self.max_failures = max_failures
        self.notify = notify

    def _of(self, trial: Any) -> SweptTrial:
        return self.sweep.trials[trial.config[KEY]]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Known already: the searcher took it from the sweep."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        swept = self._of(trial)
        self.notify(swept, result)
        if result.get("failed") or result.get("done"):
            return str(TrialScheduler.CONTINUE)  # `on_trial_complete` follows
        decision = self.sweep.decide(swept, result)
        if decision == "wait":
            return str(TrialScheduler.PAUSE)
        if decision == "stop":
            self._lost(swept)
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)

    def _lost(self, swept: SweptTrial) -> None:
        self.sweep.close(swept, TrialState.STOPPED, LOST)
        self.notify(swept, {})

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        swept = self._of(trial)
        if result.get("failed"):
            self.sweep.close(swept, TrialState.FAILED, result["failed"])
        else:
            self.sweep.decide(swept, result)
            self.sweep.close(swept, TrialState.FINISHED)
        self.notify(swept, {})

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """The trial is handed out again, as a new one of Tune's, or closed.

        Tune's own new try would start without asking the scheduler, also beyond a rung that is not decided, and is
        given up where two calls were on their way to a worker that died.
        """
        swept = self._of(trial)
        swept.failures += 1
        self.sweep.hand_back(swept)
        text = ray_tune.error_text(trial)
        if (cause := machine_error(text)) is not None:  # every other trial would end so
            raise MachineError(cause)
        if swept.failures > self.max_failures and not swept.over:
            lines = [line.strip() for line in text.splitlines()]
            self.sweep.close(swept, TrialState.FAILED, [line for line in lines if line][-1], retry=True)
        self.notify(swept, {})

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Comes after this scheduler's own decision to stop a paused trial."""

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        trials = ray_tune.waiting_trials(tune_controller)
        for trial in trials:
            # Not while it is being paused: the next trial would start an actor of its own instead of taking this one's.
            if trial.status == trial.PAUSED and (swept := self._of(trial)).state == TrialState.RUNNING:
                self.sweep.pause(swept)
                self.notify(swept, {"step": swept.reached})
            if trial.status == trial.PAUSED and self._of(trial).bracket.decision(trial.config[KEY]) == "stop":
                self._lost(self._of(trial))
                ray_tune.stop_trial(tune_controller, trial)
        room = self.sweep.running < self.limit()
        winners = {swept.key for swept in self.sweep.winners()} if room else set()
        for trial in trials:
            if trial.status == trial.PENDING:
                return trial
            if trial.config[KEY] in winners:
                self.sweep.start(self._of(trial))
                return trial
        for swept in self.sweep.close_if_spent():
            self.notify(swept, {})
            for trial in trials:
                if trial.config[KEY] == swept.key:
                    ray_tune.stop_trial(tune_controller, trial)
        return None

    def debug_string(self) -> str:
        return "raydaa brackets"


def run(
    sweep: Sweep,
    spec_of: Callable[[SweptTrial, Recipe], RunSpec],
    workers: Workers,
    limit: Limit,
    notify: Callable[[SweptTrial, dict[str, Any]], None],
    trackers: Sequence[tune.Callback] = (),
) -> None:
    """Run every trial that is not over yet, at most ``limit()`` at a time; ``trackers`` hear what they report."""
    if sweep.next_trial() is None and sweep.over:
        return
    ray_tune.set_options()

    def configure(trial: SweptTrial) -> dict[str, Any]:
        # Whether it is whole, its workers find out: reading it would stop Tune, and this machine may be a small one.
        checkpoints = newest_first(trial.folder.checkpoint)
        reached = step_of(checkpoints[0]) if checkpoints else 0
        label = label_of(trial.point, trial.key)
        assignment = Assignment(label, trial.folder, workers, trial.steps, reached)
        return {KEY: trial.key, POINT: asdict(trial.point), ASSIGNMENT: assignment}

    ray_tune.share_processes()
    one = workers.count == 1
    request = {"CPU": workers.cpus, "GPU": workers.gpus} if one else {**ON_HEAD}
    if one and workers.gpus and workers.accelerator:
        request[f"accelerator_type:{workers.accelerator}"] = 0.001
    trainable = tune.with_resources(OneWorkerTrial if one else GroupTrial, request)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric="step",
            mode="max",
            search_alg=_Points(sweep, spec_of, configure, limit),
            scheduler=_Brackets(sweep, limit, workers.max_failures, notify),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.config[ASSIGNMENT].label,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=f"align-{os.getpid()}",
            storage_path=workers.storage,
            failure_config=tune.FailureConfig(max_failures=0),
            # A trial that is over needs no checkpoint: what it leaves is its model or nothing. A number to keep would
            # have Tune draw its picture at every one of them.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[*trackers],  # with none of its own Tune does not look for mlflow and wandb: 3 s where they lie
            progress_reporter=ray_tune.silent_reporter(),
            verbose=0,
        ),
    )
    tuner.fit()
    shutil.rmtree(Path(workers.storage) / f"align-{os.getpid()}", ignore_errors=True)
