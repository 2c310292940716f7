"""One training run without Ray in it: SFT and alignment alike."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydaa.data.batches import global_batches, split_work, subset
from raydaa.data.packing import ExampleTable, PackedBatch, PairTable, Table
from raydaa.data.template import with_template
from raydaa.errors import RaydaaError
from raydaa.store.artifacts import make_folder, read_json, write_json
from raydaa.store.study_folder import RUN_STATE
from raydaa.training import checkpoint
from raydaa.training.build import build
from raydaa.training.collectives import from_first, rank, sum_over_workers, world_size
from raydaa.training.device import device_of_worker
from raydaa.training.lora import merged
from raydaa.training.meter import Meter
from raydaa.training.model import load_model, write_model
from raydaa.training.objective import OpenedTable, make_objective
from raydaa.training.spec import RunSpec
from raydaa.training.start_weights import StartWeights
from raydaa.training.tokenizer import generation_config, load_tokenizer

Metrics = dict[str, float]
Sums = dict[str, float]  # over all rows


class NonFiniteLossError(RaydaaError, ArithmeticError):
    """The loss is NaN or infinite: the run can't recover, and repeating it would not help."""


class Run:
    """A training from start to end: ``train_step``, ``validate``, ``save``, ``load``, ``export``, ``close``."""

    def __init__(self, spec: RunSpec, start: StartWeights | None = None) -> None:
        self.spec = spec
        recipe = spec.recipe
        torch.manual_seed(recipe.seed)
        self.device = device_of_worker()
        self.policy, self.engine, shape = build(spec, self.device, start)
        self.meter = Meter(shape, self.policy, self.device)
        self.objective = make_objective(recipe)
        self.train = self.objective.open(spec.data, "train", self.policy.sharing)
        self.held_out: OpenedTable | None = None
        if spec.data.validation:
            self.held_out = self.objective.open(spec.data, "validation", self.policy.sharing)
        rows = subset(len(self.train.rows), recipe.fraction)
        batches = global_batches(len(rows), recipe.training.batch_size, recipe.training.epochs, recipe.seed)
        self.batches = [rows[batch] for batch in batches]
        self.held_out_losses: dict[int, float] = {}  # by row, of this worker's at the newest validation
        self.step = 0
        self.seconds = 0.0
        self.saved_after = 0.0  # seconds of training
        self.pace = checkpoint.Pace(recipe.training.checkpoint_minutes, shape.checkpoint(recipe.in_half))

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return len(self.batches)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then linear decay to 0; ``step`` counts from 0."""
        peak = self.spec.recipe.learning_rate
        warmup = math.ceil(self.spec.recipe.training.warmup_ratio * self.total_steps)
        if step < warmup:
            return peak * (step + 1) / warmup
        return peak * (self.total_steps - step) / max(1, self.total_steps - warmup)

    def train_step(self) -> Metrics:
        """One optimizer step over the next global batch; the metrics of that batch."""
        began = time.monotonic()
        indices = self.batches[self.step]
        learning_rate = self.learning_rate(self.step)
        kl = self._kl(self.train.mismatched, indices)
        self.meter.begin()
        sums, tokens = self._pass(self.train.rows, indices, kl, train=True)
        metrics: Metrics = self._means(sums, len(indices))
        if not math.isfinite(metrics["loss"]):
            raise NonFiniteLossError(f"the loss is {metrics['loss']} at step {self.step + 1}")
        norm = self.engine.step(learning_rate)
        if not math.isfinite(norm):
            raise NonFiniteLossError(f"the gradient is {norm} at step {self.step + 1}")
        self.step += 1
        spent = time.monotonic() - began
        self.seconds += spent
        metrics |= {"grad_norm": norm, "lr": learning_rate, "tokens_per_second": tokens / spent}
        return {**metrics, **self.meter.read(self.train.rows, indices, spent)}

    def validate(self) -> Metrics:
        """Metrics of the held-out table with the current weights, named ``validation/…``."""
        if self.held_out is None:
            return {}
        began = time.monotonic()
        self.engine.module.eval()
        sums: Sums = {}
        self.held_out_losses = {}
        size = len(self.held_out.rows)
        block = max(self.spec.recipe.training.batch_size, 256)
        with torch.no_grad():
            kl = self._kl(self.held_out.mismatched, np.arange(size))
            for first in range(0, size, block):
                rows = np.arange(first, min(first + block, size))
                part, _ = self._pass(self.held_out.rows, rows, kl, train=False, kept=self.held_out_losses)
                sums = {name: sums.get(name, 0.0) + value for name, value in part.items()}
        self.engine.module.train()
        self.seconds += time.monotonic() - began
        means = self._means(sums, size)
        if not math.isfinite(means["loss"]):
            raise NonFiniteLossError(f"the held-out loss is {means['loss']} at step {self.step}")
        return {f"validation/{name}": value for name, value in means.items()}

    def _microbatches(self, table: Table, indices: np.ndarray) -> Iterator[tuple[list[int], PackedBatch, float]]:
        """This worker's micro-batches of a global batch: rows of ``table``, packed, and their weight.

        A worker without work of its own runs the shortest row at weight 0.
        """
        lengths = table.row_lengths[indices]
        for places in split_work(lengths, world_size(), self.spec.recipe.tokens)[rank()]:
            rows = [int(indices[index]) for index in places or [int(lengths.argmin())]]
            weight = 1.0 if places else 0.0
            yield rows, table.pack(rows, weight).to(self.device), weight

    def _kl(self, table: PairTable | None, indices: np.ndarray) -> Tensor | None:
        """max(0, mean log-ratio of the mismatched responses) over the global batch, one number on all workers."""
        if table is None:
            return None
        total = torch.zeros(1, dtype=torch.float64, device=self.device)
        with torch.no_grad():
            for rows, batch, weight in self._microbatches(table, indices):
                total += weight * self.objective.kl_scores(self.engine.module(batch), batch, table, rows)
        return (sum_over_workers(total)[0] / (2 * len(indices))).clamp(min=0)

    def _pass(
        self,
        table: PairTable | ExampleTable,
        indices: np.ndarray,
        kl: Tensor | None,
        train: bool,
        kept: dict[int, float] | None = None,
    ) -> tuple[Sums, float]:
        """Forward (and backward) over a global batch; metric sums and tokens over all workers.

        ``kept`` takes up this worker's preference losses by row.
        """
        names: list[str] = []
        sums = torch.zeros(0, dtype=torch.float64)
        tokens = 0.0
        for rows, batch, weight in self._microbatches(table, indices):
            output = self.objective(self.engine.module(batch), batch, table, rows, kl)
            if train:
                self.engine.backward((output.loss * batch.weights).sum() / len(indices))
            if kept is not None and weight and "preference_loss" in output.metrics:
                kept |= dict(zip(rows, output.metrics["preference_loss"].double().tolist(), strict=True))
            parts = torch.stack([values.detach() for values in output.metrics.values()]).double().cpu()
            added = (parts * weight).sum(dim=1)
            sums = sums + added if names else added
            names = list(output.metrics)
            tokens += weight * float(table.row_lengths[rows].sum())
        # A worker without work has run a row at weight 0: all have the same metrics.
        everywhere = sum_over_workers(torch.cat([sums, sums.new_tensor([tokens])]).to(self.device)).cpu().tolist()
        return dict(zip(names, everywhere, strict=False)), everywhere[-1]

    def _means(self, sums: Sums, size: int) -> Metrics:
        return self.objective.summary({name: value / size for name, value in sums.items()})

    def save(self, folder: Path) -> None:
        """Write a resume checkpoint into ``folder``; every worker calls it."""
        began = time.monotonic()
        checkpoint.save(folder, self.step, self._fill)
        self.pace.note(began)
        self.saved_after = self.seconds

    @property
    def save_is_due(self) -> bool:
        """Whether a crash would cost more than a checkpoint; every worker asks, and the first one's clock counts."""
        if self.spec.recipe.training.checkpoint_every is not None:
            return self.step % self.spec.recipe.training.checkpoint_every == 0
        return from_first(self.pace.due())

    @property
    def is_worth_saving(self) -> bool:
        """Whether what was trained since the last checkpoint would take longer than saving it does."""
        return from_first(self.pace.worth(self.seconds - self.saved_after))

    def _fill(self, folder: Path) -> None:
        self.engine.save(folder)
        if rank() == 0:
            write_json(folder / RUN_STATE, {"step": self.step, "seconds": self.seconds, "writer": self._writer()})
        states = [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if self.device.type == "cuda" else [])]
        torch.save(states, folder / f"rng-{rank()}.pt")

    def load(self, folder: Path) -> bool:
        """Go on from the newest whole checkpoint in ``folder``; False where there is none."""
        newest = checkpoint.latest(folder)
        state = {} if newest is None else read_json(newest / RUN_STATE)
        if newest is None or state["writer"] != self._writer():
            return False
        self.engine.load(newest)
        states = torch.load(newest / f"rng-{rank()}.pt", weights_only=True)
        torch.set_rng_state(states[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(states[1])
        self.step = state["step"]
        self.seconds = state["seconds"]
        self.saved_after = self.seconds
        return True

    def _writer(self) -> list[Any]:
        """Who can read a checkpoint: the same engine, in the same number of pieces."""
        return [*self.engine.checkpoint_format, world_size()]

    def export(self, folder: Path) -> None:
        """Seal the weights as a Hugging Face folder (safetensors, tokenizer); every worker calls it."""
        state = self.engine.weights()
        if state is not None:
            make_folder(folder, lambda temporary: self._write_model(temporary, state))

    def _write_model(self, folder: Path, state: dict[str, Tensor]) -> None:
        dtype = torch.bfloat16 if self.spec.recipe.training.precision == "bf16" else torch.float32
        model = load_model(self.spec.start, dtype, self.spec.recipe.trust_remote_code)
        plain = {name.removeprefix("model."): tensor.detach().to("cpu") for name, tensor in state.items()}
        plain = plain if self.spec.recipe.training.lora is None else merged(plain, self.spec.recipe.training.lora)
        model.load_state_dict({name: tensor.to(dtype) for name, tensor in plain.items()})
        model.config.use_cache = True
        source = Path(self.spec.tokenizer or self.spec.start)
        model.generation_config = generation_config(source)
        write_model(model, with_template(load_tokenizer(source, self.spec.recipe.trust_remote_code)), folder)

    def close(self) -> None:
        """Give the engine's memory back."""
        self.engine.close()
