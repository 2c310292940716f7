"""One training run without Ray in it: SFT and alignment alike."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydaa.algorithms.catalog import loss
from raydaa.algorithms.logprobs import PairLogps
from raydaa.algorithms.method import LossOutput
from raydaa.algorithms.objective import Objective, preference_loss, sft_loss
from raydaa.data.packing import (
    ExampleTable,
    PackedBatch,
    PairTable,
    Table,
    global_batches,
    mismatched,
    split_work,
    subset,
)
from raydaa.data.template import with_template
from raydaa.store.artifacts import make_folder, read_json, write_json
from raydaa.store.tables import read
from raydaa.training import checkpoint
from raydaa.training.build import build
from raydaa.training.collectives import from_first, rank, sum_over_workers, world_size
from raydaa.training.device import device_of_worker
from raydaa.training.lora import merged
from raydaa.training.meter import Meter
from raydaa.training.model import StartWeights, load_model, write_model
from raydaa.training.spec import RunSpec
from raydaa.training.tokenizer import generation_config, load_tokenizer

Metrics = dict[str, float]
# The sums that make a batch's metrics; each is divided by the weight of the pairs in it.
NAMES = (
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
    "preference_loss",  # only where the table has reference log-probabilities
)


class NonFiniteLossError(ArithmeticError):
    """The loss is NaN or infinite: the run can't recover, and repeating it would not help."""


class Run:
    """A training from start to end: ``train_step``, ``validate``, ``save``, ``load``, ``export``, ``close``."""

    def __init__(self, spec: RunSpec, start: StartWeights | None = None) -> None:
        self.spec = spec
        torch.manual_seed(spec.recipe.seed)
        self.device = device_of_worker()
        self.policy, self.engine, shape = build(spec, self.device, start)
        self.meter = Meter(shape, self.policy, self.device)
        self.objective: Objective | None = None
        if spec.recipe.objective.method is not None:
            self.objective = Objective(
                loss(spec.recipe.objective.method, **spec.recipe.objective.parameters),
                spec.recipe.objective.sft_weight,
                spec.recipe.objective.align_weight,
            )
        self.table, self.mismatched = self._open(spec.data.train, "train")
        self.held_out: PairTable | ExampleTable | None = None
        self.held_out_mismatched: PairTable | None = None
        if spec.data.validation:
            self.held_out, self.held_out_mismatched = self._open(spec.data.validation, "validation")
        rows = subset(len(self.table), spec.recipe.fraction)
        self.batches = [
            rows[batch]
            for batch in global_batches(
                len(rows), spec.recipe.training.batch_size, spec.recipe.training.epochs, spec.recipe.seed
            )
        ]
        self.step = 0
        self.seconds = 0.0
        self.saved_after = 0.0  # seconds of training
        self.pace = checkpoint.Pace(spec.recipe.training.checkpoint_minutes, shape.checkpoint(spec.recipe.in_half))

    def _open(self, path: str, part: str) -> tuple[PairTable | ExampleTable, PairTable | None]:
        """A table, and what a method with a KL estimate compares against."""
        rows = read(Path(path))
        if self.objective is None:
            return ExampleTable(rows), None
        method, sharing, reference = self.objective.method, self.policy.sharing, None
        if method.needs_reference or part == "validation":  # held-out pairs are measured against the start by all
            if self.spec.data.reference is None:
                raise ValueError(
                    f"{self.spec.recipe.objective.method} needs reference log-probabilities of the {part} pairs"
                )
            reference = read(Path(self.spec.data.reference) / f"{part}.parquet")
        pairs = PairTable(rows, reference, sharing)
        if not method.needs_kl:
            return pairs, None
        if self.spec.data.mismatched is None:
            raise ValueError(
                f"{self.spec.recipe.objective.method} needs reference log-probabilities of mismatched responses"
            )
        return pairs, PairTable(mismatched(rows), read(Path(self.spec.data.mismatched) / f"{part}.parquet"), sharing)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return len(self.batches)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then linear decay to 0; ``step`` counts from 0."""
        warmup = math.ceil(self.spec.recipe.training.warmup_ratio * self.total_steps)
        if step < warmup:
            return self.spec.recipe.learning_rate * (step + 1) / warmup
        return self.spec.recipe.learning_rate * (self.total_steps - step) / max(1, self.total_steps - warmup)

    def train_step(self) -> Metrics:
        """One optimizer step over the next global batch; the metrics of that batch."""
        begun = time.monotonic()
        indices = self.batches[self.step]
        learning_rate = self.learning_rate(self.step)
        kl = self._kl(self.mismatched, indices)
        self.meter.begin()
        sums, tokens = self._pass(self.table, indices, kl, train=True)
        metrics = _means(sums, len(indices), self.table)
        if not math.isfinite(metrics["loss"]):
            raise NonFiniteLossError(f"the loss is {metrics['loss']} at step {self.step + 1}")
        norm = self.engine.step(learning_rate)
        if not math.isfinite(norm):
            raise NonFiniteLossError(f"the gradient is {norm} at step {self.step + 1}")
        self.step += 1
        spent = time.monotonic() - begun
        self.seconds += spent
        metrics |= {"grad_norm": norm, "lr": learning_rate, "tokens_per_second": tokens / spent}
        return {**metrics, **self.meter.read(self.table, indices, spent)}

    def validate(self) -> Metrics:
        """Metrics of the held-out table with the current weights, named ``validation/…``."""
        if self.held_out is None:
            return {}
        begun = time.monotonic()
        self.engine.module.eval()
        sums = torch.zeros(len(NAMES), dtype=torch.float64)
        size, block = len(self.held_out), max(self.spec.recipe.training.batch_size, 256)
        with torch.no_grad():
            kl = self._kl(self.held_out_mismatched, np.arange(size))
            for first in range(0, size, block):
                part, _ = self._pass(self.held_out, np.arange(first, min(first + block, size)), kl, train=False)
                sums += part
        self.engine.module.train()
        self.seconds += time.monotonic() - begun
        means = _means(sums, size, self.held_out)
        if not math.isfinite(means["loss"]):
            raise NonFiniteLossError(f"the held-out loss is {means['loss']} at step {self.step}")
        return {f"validation/{name}": value for name, value in means.items()}

    def _microbatches(self, table: Table, indices: np.ndarray) -> Iterator[tuple[list[int], PackedBatch, float]]:
        """This worker's micro-batches of a global batch: rows of ``table``, packed, and their weight.

        A worker without work of its own runs the shortest row at weight 0.
        """
        lengths = table.row_lengths[indices]
        for places in split_work(lengths, world_size(), self.spec.recipe.tokens)[rank()]:
            rows = [int(indices[place]) for place in places or [int(lengths.argmin())]]
            weight = 1.0 if places else 0.0
            yield rows, table.pack(rows, weight).to(self.device), weight

    def _kl(self, table: PairTable | None, indices: np.ndarray) -> Tensor | None:
        """max(0, mean log-ratio of the mismatched responses) over the global batch, one number on all workers."""
        if table is None:
            return None
        assert self.objective is not None
        total = torch.zeros(1, dtype=torch.float64, device=self.device)
        with torch.no_grad():
            for rows, batch, weight in self._microbatches(table, indices):
                pairs = _pairs(self.engine.module(batch), batch, table.reference, rows)
                total += weight * sum(scores.double().sum() for scores in self.objective.method.scores(pairs))
        return (sum_over_workers(total)[0] / (2 * len(indices))).clamp(min=0)

    def _pass(
        self, table: PairTable | ExampleTable, indices: np.ndarray, kl: Tensor | None, train: bool
    ) -> tuple[Tensor, float]:
        """Forward (and backward) over a global batch; metric sums and tokens over all workers."""
        sums = torch.zeros(len(NAMES) + 1, dtype=torch.float64)
        for rows, batch, weight in self._microbatches(table, indices):
            output, parts = self._losses(table, rows, batch, kl)
            if train:
                self.engine.backward((output.loss * batch.weights).sum() / len(indices))
            sums[:-1] += (parts.double().cpu() * weight).sum(dim=1)
            sums[-1] += weight * float(table.row_lengths[rows].sum())
        sums = sum_over_workers(sums.to(self.device)).cpu()
        return sums[:-1], float(sums[-1])

    def _losses(
        self, table: PairTable | ExampleTable, rows: list[int], batch: PackedBatch, kl: Tensor | None
    ) -> tuple[LossOutput, Tensor]:
        """Loss of each row, and what it adds to each of `NAMES`, ``(names, rows)``."""
        logps = self.engine.module(batch)
        if self.objective is None:
            losses = sft_loss(logps, batch.lengths)
            zero = torch.zeros_like(losses.detach())
            parts = torch.stack([losses.detach(), zero, zero, zero, logps.detach(), zero, zero])
            return LossOutput(losses, zero, zero), parts
        assert isinstance(table, PairTable)
        pairs = _pairs(logps, batch, table.reference, rows, kl)
        output = self.objective(pairs)
        chosen, rejected = output.chosen_reward, output.rejected_reward
        accuracy = (chosen > rejected).float() + 0.5 * (chosen == rejected)
        known = table.reference is not None
        preference = preference_loss(pairs) if known else torch.zeros_like(chosen)
        parts = [output.loss, chosen, rejected, accuracy, pairs.chosen, pairs.rejected, preference]
        return output, torch.stack([part.detach() for part in parts])

    def save(self, folder: Path) -> None:
        """Write a resume checkpoint into ``folder``; every worker calls it."""
        begun = time.monotonic()
        checkpoint.save(folder, self.step, self._fill)
        self.pace.note(begun)
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
            write_json(folder / "run.json", {"step": self.step, "seconds": self.seconds, "writer": self._writer()})
        states = [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if self.device.type == "cuda" else [])]
        torch.save(states, folder / f"rng-{rank()}.pt")

    def load(self, folder: Path) -> bool:
        """Go on from the newest whole checkpoint in ``folder``; False where there is none."""
        found = checkpoint.latest(folder)
        state = {} if found is None else read_json(found / "run.json")
        if found is None or state["writer"] != self._writer():
            return False
        self.engine.load(found)
        states = torch.load(found / f"rng-{rank()}.pt", weights_only=True)
        torch.set_rng_state(states[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(states[1])
        self.step, self.seconds = state["step"], state["seconds"]
        self.saved_after = self.seconds
        return True

    def _writer(self) -> list[Any]:
        """Who can read a checkpoint: the same engine, in the same number of pieces."""
        return [
            self.spec.recipe.placement.engine,
            self.spec.recipe.placement.zero_stage if self.spec.recipe.placement.engine == "deepspeed" else 0,
            world_size(),
        ]

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


def _pairs(
    logps: Tensor,
    batch: PackedBatch,
    reference: tuple[Tensor, Tensor] | None,
    rows: list[int],
    kl: Tensor | None = None,
) -> PairLogps:
    """The sequences of a micro-batch of pairs, two by two, with the cached reference sums of ``rows``."""
    chosen, rejected = (None, None) if reference is None else (sums[rows].to(logps.device) for sums in reference)
    return PairLogps(logps[0::2], logps[1::2], batch.lengths[0::2], batch.lengths[1::2], chosen, rejected, kl)


def _means(sums: Tensor, size: int, table: PairTable | ExampleTable) -> Metrics:
    values = dict(zip(NAMES, (sums / size).tolist(), strict=True))
    if isinstance(table, ExampleTable):
        return {"loss": values["loss"], "logps/chosen": values["logps/chosen"]}
    if table.reference is None:
        del values["preference_loss"]
    return {**values, "rewards/margins": values["rewards/chosen"] - values["rewards/rejected"]}
