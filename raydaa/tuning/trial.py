"""A trial as Ray Tune runs it: in its own actor on one worker, or through Ray Train on several."""

import gc
import socket
import time
import traceback
from dataclasses import dataclass
from typing import Any

import torch
from ray.tune import Trainable

from raydaa.store.artifacts import read_json, write_json
from raydaa.store.records import TOKENS, SlotRecord, TrialRecord, TrialState
from raydaa.store.study_folder import TrialFolder
from raydaa.training.launch import train
from raydaa.training.loop import resume, rung_steps, train_until, validation_steps
from raydaa.training.run import NonFiniteLossError, Run
from raydaa.training.spec import RunSpec
from raydaa.training.start_weights import StartWeights
from raydaa.training.token_budget import is_out_of_memory
from raydaa.training.workers import Workers, prepare_process

KEY, POINT, ASSIGNMENT = "key", "point", "assignment"  # what Tune's configuration of a trial holds


def _failed(folder: TrialFolder, step: int, reason: str) -> dict[str, Any]:
    """Write the record of a trial that trying again would not help, and what Tune is told."""
    folder.record.write(TrialRecord(TrialState.FAILED, reason))
    return {"step": step, "failed": reason, "done": True}


@dataclass(frozen=True)
class Assignment:
    """What an actor is told of the trial that it is to run."""

    label: str
    folder: TrialFolder
    workers: Workers
    steps: int
    reached: int  # step of the newest checkpoint

    def read_spec(self) -> RunSpec:
        """The trial's run; FileNotFoundError where this machine does not see its folder."""
        settings = read_json(self.folder.spec)
        if settings is None:  # a node that joined later
            raise FileNotFoundError(
                f"{self.folder.path} is not seen by {socket.gethostname()}; use a shared file system"
            )
        return RunSpec.from_json(settings)

    def begin(self, start: StartWeights) -> Run:
        """The trial's run in this process, as far as its newest checkpoint."""
        run = Run(self.read_spec(), start)
        resume(run, self.folder.path)
        return run

    def train_to_next_rung(self, spec: RunSpec, reached: int) -> tuple[dict[str, Any], RunSpec]:
        """Train on a worker group; what it reports, and the run as it goes on."""
        rungs = rung_steps(spec.recipe.rungs, self.steps)
        until = min([step for step in rungs if step > reached], default=self.steps)
        return train(spec, self.folder.path, self.workers, until)


class OneWorkerTrial(Trainable):
    """Trains in this process, which outlives the trial: imports and base weights are paid once per slot.

    The trial's folder is the truth: the first `step` goes on from its newest checkpoint, so Tune's own
    checkpoints carry nothing.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.start = StartWeights()
        self.idle_since: float | None = None
        self.run: Run | None = None
        workers = config[ASSIGNMENT].workers
        prepare_process(workers.threads, workers.methods)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        # Tune may set up a trial here and then run it in another actor: nothing may be touched before `step`.
        self._end()
        self.assignment: Assignment = new_config[ASSIGNMENT]
        self.folder = self.assignment.folder
        return True

    def _end(self, out_of_memory: bool = False) -> None:
        if self.run is None:
            return
        plain = self.run.engine.frees_itself and not out_of_memory
        self.run.close()
        self.run = None
        if plain:  # frees itself, and a collection would cost every trial half a second
            return
        gc.collect()  # DeepSpeed's engine and its hooks hold each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def step(self) -> dict[str, Any]:
        try:
            return self._step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or self.run is None:
                raise
            # Its frames hold the run and the activations that did not fit.
            traceback.clear_frames(error.__traceback__)
        return self._out_of_memory()

    def _step(self) -> dict[str, Any]:
        if self.run is None:
            self.run = self.assignment.begin(self.start)
            self.first_step = True
        run = self.run
        until = min([s for s in validation_steps(run) if s > run.step], default=run.total_steps)
        try:
            metrics = train_until(run, self.folder.path, until, self._note_start)
        except NonFiniteLossError as error:
            return _failed(self.folder, run.step, str(error))
        done = run.step >= run.total_steps
        if done:
            run.export(self.folder.model)
            self.folder.record.write(TrialRecord(TrialState.FINISHED, steps=run.step, seconds=run.seconds))
        self.idle_since = time.monotonic()
        return {**metrics, "step": run.step, "done": done, TOKENS: run.spec.recipe.tokens}

    def _out_of_memory(self) -> dict[str, Any]:
        """Once a trial goes on in smaller micro-batches; the second time it has failed.

        Nobody but this object may hold the run by now, or its memory would not come back.
        """
        assert self.run is not None
        step = self.run.step
        spec = self.run.spec
        self._end(out_of_memory=True)
        smaller = spec.after_out_of_memory()
        if smaller is None:
            return _failed(self.folder, step, spec.recipe.out_of_memory)
        write_json(self.folder.spec, smaller.to_json())
        return self.step()

    def _note_start(self, _: dict[str, float]) -> None:
        """After a trial's first step: how long this slot stood between two trials' steps."""
        if self.first_step and self.idle_since is not None:
            self.folder.slot.write(SlotRecord(time.monotonic() - self.idle_since))
        self.first_step = False

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        if self.run is not None:
            if self.run.is_worth_saving:
                self.run.save(self.folder.checkpoint)
            self.idle_since = time.monotonic()
        return {"step": 0 if self.run is None else self.run.step}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """The first `step` does it, from the trial's folder."""

    def cleanup(self) -> None:
        self._end()


class GroupTrial(Trainable):
    """Drives a Ray Train worker group from rung to rung; the workers go home while the trial waits for a decision."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.assignment: Assignment = new_config[ASSIGNMENT]
        self.folder = self.assignment.folder
        self.spec = self.assignment.read_spec()
        self.reached = self.assignment.reached
        return True

    def step(self) -> dict[str, Any]:
        result, self.spec = self.assignment.train_to_next_rung(self.spec, self.reached)
        write_json(self.folder.spec, self.spec.to_json())
        if "failed" in result:
            return _failed(self.folder, self.reached, result["failed"])
        self.reached = int(result["step"])
        if result["done"]:
            self.folder.record.write(
                TrialRecord(TrialState.FINISHED, steps=self.assignment.steps, seconds=result["seconds"])
            )
        return {**result, TOKENS: self.spec.recipe.tokens}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"step": self.reached}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        if checkpoint:
            self.reached = checkpoint["step"]
