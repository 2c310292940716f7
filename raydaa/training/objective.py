"""What a run minimises, over which tables, and what it logs of each step: SFT on examples, or alignment on pairs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from raydaa.algorithms.catalog import loss
from raydaa.algorithms.logprobs import PairLogps
from raydaa.algorithms.objective import Objective, preference_loss, sft_loss
from raydaa.data.packing import ExampleTable, PackedBatch, PairTable, Sharing, Table, mismatched
from raydaa.store.tables import read
from raydaa.training.spec import DataSpec, Recipe


@dataclass(frozen=True)
class OpenedTable:
    """Rows to train or be validated on, and each prompt with the next pair's responses where the method wants them."""

    rows: PairTable | ExampleTable
    mismatched: PairTable | None = None


@dataclass(frozen=True)
class StepOutput:
    """Of a micro-batch: the loss of each row, and what is logged, by name, ``(rows,)`` each."""

    loss: Tensor
    metrics: dict[str, Tensor]


class RunObjective(Protocol):
    """What the loop asks."""

    def open(self, data: DataSpec, part: str, sharing: Sharing) -> OpenedTable:
        """The table ``train`` or ``validation``, packed as the policy can take it."""

    def __call__(
        self, logps: Tensor, batch: PackedBatch, table: Table, rows: list[int], kl: Tensor | None
    ) -> StepOutput:
        """From summed log-probabilities of the batch's sequences, nats; ``rows`` are its rows' numbers in the table."""

    def kl_scores(self, logps: Tensor, batch: PackedBatch, table: PairTable, rows: list[int]) -> Tensor:
        """The sum of the mismatched responses' scores, of which the KL estimate is made."""

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """The metrics of a whole batch, with those that are made of others."""


class SftObjective:
    """−average log-probability per token of the answer."""

    def open(self, data: DataSpec, part: str, sharing: Sharing) -> OpenedTable:
        path = data.train if part == "train" else data.validation
        return OpenedTable(ExampleTable(read(Path(str(path)))))

    def __call__(
        self, logps: Tensor, batch: PackedBatch, table: Table, rows: list[int], kl: Tensor | None
    ) -> StepOutput:
        losses = sft_loss(logps, batch.lengths)
        return StepOutput(losses, {"loss": losses, "logps/chosen": logps})

    def kl_scores(self, logps: Tensor, batch: PackedBatch, table: PairTable, rows: list[int]) -> Tensor:
        raise AssertionError("SFT has no KL estimate")

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        return means


@dataclass(frozen=True)
class AlignmentObjective:
    """A method's loss on preference pairs, with the one-stage SFT term."""

    objective: Objective

    def open(self, data: DataSpec, part: str, sharing: Sharing) -> OpenedTable:
        method = self.objective.method
        reference = None
        rows = read(Path(str(data.train if part == "train" else data.validation)))
        if method.needs_reference or part == "validation":  # held-out pairs are measured against the start by all
            if data.reference is None:
                raise ValueError(f"{method.name} needs reference log-probabilities of the {part} pairs")
            reference = read(Path(data.reference) / f"{part}.parquet")
        pairs = PairTable(rows, reference, sharing)
        if not method.needs_kl:
            return OpenedTable(pairs)
        if data.mismatched is None:
            raise ValueError(f"{method.name} needs reference log-probabilities of mismatched responses")
        others = PairTable(mismatched(rows), read(Path(data.mismatched) / f"{part}.parquet"), sharing)
        return OpenedTable(pairs, others)

    def __call__(
        self, logps: Tensor, batch: PackedBatch, table: Table, rows: list[int], kl: Tensor | None
    ) -> StepOutput:
        assert isinstance(table, PairTable)
        pairs = _pairs(logps, batch, table, rows, kl)
        output = self.objective(pairs)
        chosen, rejected = output.chosen_reward, output.rejected_reward
        metrics = {
            "loss": output.loss,
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/accuracies": (chosen > rejected).float() + 0.5 * (chosen == rejected),
            "logps/chosen": pairs.chosen,
            "logps/rejected": pairs.rejected,
        }
        if table.reference is not None:
            metrics["preference_loss"] = preference_loss(pairs)
        return StepOutput(output.loss, metrics)

    def kl_scores(self, logps: Tensor, batch: PackedBatch, table: PairTable, rows: list[int]) -> Tensor:
        scores = self.objective.method.scores(_pairs(logps, batch, table, rows))
        return torch.stack([score.double().sum() for score in scores]).sum()

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        return {**means, "rewards/margins": means["rewards/chosen"] - means["rewards/rejected"]}


def make_objective(recipe: Recipe) -> RunObjective:
    """The one that a run's recipe names."""
    spec = recipe.objective
    if spec.method is None:
        return SftObjective()
    method = loss(spec.method, **spec.parameters)
    return AlignmentObjective(Objective(method, spec.sft_weight, spec.align_weight))


def _pairs(logps: Tensor, batch: PackedBatch, table: PairTable, rows: list[int], kl: Tensor | None = None) -> PairLogps:
    """The sequences of a micro-batch of pairs, two by two, with the cached reference sums of ``rows``."""
    chosen, rejected = None, None
    if table.reference is not None:
        chosen, rejected = (sums[rows].to(logps.device) for sums in table.reference)
    return PairLogps(logps[0::2], logps[1::2], batch.lengths[0::2], batch.lengths[1::2], chosen, rejected, kl)
