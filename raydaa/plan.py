"""What a study will take, before anything is started: trials, steps, memory, GPU-hours, disk.

Looks at the data where it is at hand, and says what it could not look at. The sweep is not estimated but played: the
brackets are the real ones, on trials that need no time.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raydaa.accelerators import ACCELERATORS, Accelerator
from raydaa.algorithms.catalog import method_class
from raydaa.cluster import Resources
from raydaa.compat.imports import quiet_transformers
from raydaa.data.files import DataError
from raydaa.data.packing import ExampleTable, PairTable
from raydaa.data.prepare import TooManyRejectsError
from raydaa.errors import InputError, first_line
from raydaa.pipeline.context import ON_CPU, Context, Prepared
from raydaa.pipeline.prepare import tokenized
from raydaa.pipeline.prices import gpu_cost, judging_cost
from raydaa.pipeline.reference import Reference
from raydaa.pipeline.starts import Start, base_model, sft_fraction
from raydaa.pipeline.training import trial_spec
from raydaa.progress import Progress
from raydaa.store.study_folder import TrialState
from raydaa.store.tables import read
from raydaa.study import Study
from raydaa.training.budget import SHARE
from raydaa.training.checkpoint import RATE, foreseen
from raydaa.training.memory import Layout, Memory, Shape, memory
from raydaa.training.tokenizer import TokenizerError
from raydaa.tuning.play import Played, play
from raydaa.tuning.search_space import Point, groups
from raydaa.tuning.sweep import Purse, Sweep

UTILISATION = 0.4  # of those operations: an assumption, to be replaced by what a first trial shows
UNKNOWN_STEPS = 100  # of a trial whose data could not be looked at; only shares are told then


@dataclass(frozen=True)
class Operations:
    """Operations of one pass over the tables."""

    train: float  # of all training pairs, forward and backward
    held_out: float
    sft: float
    forward: float  # the share of a forward pass in each


def plan(study: Study) -> str:
    """A few lines on each; InputError where the study can't be planned at all."""
    quiet_transformers()
    return "\n".join(_Planned(study).lines())


@dataclass
class _Planned:
    study: Study
    notes: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        prepared = self._prepared()
        context = self._context(prepared)
        shape = self._shape()
        batch = self.study.settings.training.batch_size
        size = UNKNOWN_STEPS * batch if prepared is None else prepared.rows["train"]
        played = [self._play(size, early) for early in (True, False)]
        yield from self._trials(played[0], played[1], prepared is not None)
        yield from self.notes
        if shape is None:
            return
        held = memory(shape, _layout(context))
        yield from self._memory(context, shape, held)
        if prepared is not None:
            work = _work(shape, prepared, bool(self.study.settings.data.sft))
            yield from self._hours(context, work, *played)
            yield from self._saving(context, shape, work, played[0])
            yield from judging_cost(context, [t.point for t in played[0].trials if t.state == TrialState.FINISHED])
        yield from self._disk(context, shape, played[0])

    def _prepared(self) -> Prepared | None:
        try:
            prepared, tables = tokenized(self.study, base_model(self.study))
        except TooManyRejectsError as error:
            self.notes.append(f"data: the study would stop here: {error}")
            return None
        except (InputError, DataError, TokenizerError) as error:
            self.notes.append(f"data: could not be looked at, so tokens and hours are not known: {error}")
            return None
        self.notes.append("data: " + ", ".join(f"{count} {name}" for name, count in prepared.rows.items()))
        rejected = tables.report["rejected"].items()
        self.notes += [f"  problem: {reason}: {count} rows rejected" for reason, count in rejected if count]
        self.notes += [f"  note: {count} {note}" for note, count in tables.report["notes"].items() if count]
        return prepared

    @property
    def accelerator(self) -> Accelerator | None:
        """The card that the study asks for, where it is known."""
        return ACCELERATORS.get(self.study.settings.scaling.accelerator or "")

    def _context(self, prepared: Prepared | None) -> Context:
        """As the study's own: on this machine, or on a cluster that has the accelerators it names."""
        resources = Resources(0, 0, local=False)
        if self.study.settings.scaling.accelerator is None:
            resources = Resources(len(os.sched_getaffinity(0)), torch.cuda.device_count(), local=True)
        anywhere = prepared or Prepared(Start("base", Path(), ""), Path(), {"pairs": Path()}, {"pairs": ""}, {})
        return Context(self.study, Progress(1), resources, anywhere)

    def _shape(self) -> Shape | None:
        from transformers import AutoConfig

        model, lora = self.study.settings.model, self.study.settings.training.lora
        try:
            source = model.config or (base_model(self.study) if model.source == "pocket" else model.source)
            config = AutoConfig.from_pretrained(source, trust_remote_code=model.trust_remote_code)
            return Shape.of(config, None if lora is None else lora.model_dump(mode="json"))
        except (OSError, ValueError) as error:
            reason = first_line(error)
            self.notes.append(f"model: could not be looked at, so memory is not known; give model.config: {reason}")
            return None

    def _play(self, table_size: int, with_early_stopping: bool) -> Played:
        settings = self.study.settings
        search = settings.search

        # The tokens of a micro-batch are measured where the GPUs are; here any number does.
        known = self.study.with_values({"training.tokens_per_microbatch": 1})
        context = replace(self._context(None), study=known)

        def make(point: Point) -> tuple[str, Any]:
            spec = trial_spec(context, Start("", Path(), ""), Reference(Path(), None), point)
            return spec.key(point.init, ""), spec

        found = groups(search, settings.data.preferences.fraction)
        purse = None if search.budget is None else Purse(search.budget)
        early = search.early_stopping if with_early_stopping else None
        with tempfile.TemporaryDirectory() as name:
            return play(Sweep(found, make, Path(name), early, table_size, purse))

    def _trials(self, played: Played, full: Played, sized: bool) -> Iterator[str]:
        counts = Counter((trial.point.init, trial.point.title) for trial in played.trials)
        yield f"{self.study.settings.name}: {len(played.trials)} trials"
        for (init, title), count in counts.items():
            yield f"  {count} {title} from {init}"
        steps, most = (sum(trial.reached for trial in each.trials) for each in (played, full))
        finished = sum(trial.state == TrialState.FINISHED for trial in played.trials)
        counted = f"{steps} of {most}, " if sized else ""
        yield f"steps: {counted}{steps / most:.0%} of those without early stopping; {finished} trials finish"

    def _memory(self, context: Context, shape: Shape, held: Memory) -> Iterator[str]:
        workers, settings = context.workers, self.study.settings
        wanted, longest = settings.training.tokens_per_microbatch, settings.data.max_length
        few = longest if workers.gpus else ON_CPU
        tokens = max(longest, few if wanted == "auto" else wanted)
        layout = f"{workers.count} workers" + (f", ZeRO {context.zero_stage}" if context.engine == "deepspeed" else "")
        parts = {"weights": held.weights, "gradients": held.gradients, "optimizer": held.optimizer}
        parts["activations and logits"] = held.at(tokens) - held.fixed
        yield (
            f"memory: {size_of(held.at(tokens))} on each of {layout}, {settings.training.precision}, "
            f"{tokens} tokens at a time ("
            + ", ".join(f"{name} {size_of(size)}" for name, size in parts.items())
            + f"); the model has {shape.parameters:,} parameters"
        )
        if self.accelerator is None:
            return
        most = held.tokens(SHARE * self.accelerator.memory)
        fits = f"fits, up to {most} tokens at a time" if most >= tokens else "does not fit"
        yield f"  {settings.scaling.accelerator} has {size_of(self.accelerator.memory)}: {fits}"

    def _hours(self, context: Context, work: Operations, played: Played, full: Played) -> Iterator[str]:
        settings = self.study.settings
        starts = {trial.point.init for trial in played.trials}
        needing = {t.point.init for t in played.trials if method_class(t.point.method).needs_reference}
        fractions = {f for f in (sft_fraction(settings, init) for init in starts if init != "base") if f is not None}
        sft = sum(fractions) * work.sft * settings.sft.epochs
        reference = work.forward * (len(needing) * work.train + len(starts) * work.held_out)
        rungs = len(settings.search.early_stopping.rungs) if settings.search.early_stopping else 0

        def align(of: Played, live: bool = False) -> float:
            total = 0.0
            for trial in of.trials:
                share, spec = trial.reached / trial.steps, trial.spec
                checks = share * (spec.validations + rungs) * work.forward * work.held_out
                step = work.train * spec.epochs * spec.fraction * share
                more = work.forward if live and method_class(trial.point.method).needs_reference else 0.0
                total += checks + step * (1 + more)
            return total

        figures = {
            "sft": sft,
            "reference": reference,
            "trials": align(played),
            "trials without early stopping": align(full),
            "trials without early stopping and with a live reference": align(full, live=True),
        }
        if self.accelerator is None:
            total = sft + reference + align(played)
            yield f"work: {total:.2e} operations; name scaling.accelerator to have it in hours"
            return
        hours = {name: value / (self.accelerator.rate * UTILISATION) / 3600 for name, value in figures.items()}
        used = hours["sft"] + hours["reference"] + hours["trials"]
        yield (
            f"GPU-hours: about {used:.3g} at {UTILISATION:.0%} of {settings.scaling.accelerator}'s rate, which is an "
            "assumption; generation and judging come on top"
        )
        yield from (f"  {value:.3g} {name}" for name, value in hours.items())
        yield from gpu_cost(context, used)

    def _saving(self, context: Context, shape: Shape, work: Operations, played: Played) -> Iterator[str]:
        """What the checkpoints of the longest trial take of its time."""
        if self.accelerator is None:
            return
        cards = context.workers.count * context.workers.gpus
        longest = max((trial.spec for trial in played.trials), key=lambda spec: spec.epochs * spec.fraction)
        seconds = work.train * longest.epochs * longest.fraction / (self.accelerator.rate * UTILISATION * cards)
        size = shape.checkpoint(_in_half(context))
        saved = foreseen(seconds, longest.rungs, longest.checkpoint_minutes, size)
        yield (
            f"saving: {len(saved)} checkpoints of {size_of(size)} in a trial's {seconds / 60:.0f} min, "
            f"{len(saved) * size / RATE / seconds:.0%} of them at {size_of(RATE)} a second"
        )

    def _disk(self, context: Context, shape: Shape, played: Played) -> Iterator[str]:
        model = shape.parameters * (2 if self.study.settings.training.precision == "bf16" else 4)
        checkpoint = shape.checkpoint(_in_half(context))
        settings = self.study.settings
        finished = [trial for trial in played.trials if trial.state == TrialState.FINISHED]
        best = len({trial.point.method for trial in finished})
        running = max(1, context.concurrent_trials)
        kept = (len(settings.sft.fractions) + len(finished) + best) * model
        peak = kept + (played.waiting + 2 * running) * checkpoint  # a new checkpoint is whole before the old one goes
        yield (
            f"disk: {size_of(peak)} at most: {len(finished)} trained models, {best} of them copied to be handed "
            f"over, {played.waiting} checkpoints that wait at rungs, and those of {running} running trials"
        )


def size_of(amount: float) -> str:
    """``2.5e9`` → ``2.5 GB``."""
    unit, name = (1e9, "GB") if amount >= 1e8 else (1e6, "MB")
    return f"{amount / unit:.1f} {name}"


def _in_half(context: Context) -> bool:
    """Whether weights themselves are bf16, as `RunSpec.in_half` is."""
    training = context.settings.training
    return training.precision == "bf16" and (context.engine == "deepspeed" or training.lora is not None)


def _layout(context: Context) -> Layout:
    training, scaling = context.settings.training, context.settings.scaling
    return Layout(
        sharded=context.engine == "deepspeed",
        workers=context.workers.count,
        zero_stage=context.zero_stage,
        bf16=training.precision == "bf16",
        gradient_checkpointing=training.gradient_checkpointing,
        cpu_offload=scaling.cpu_offload,
        on_gpu=bool(context.workers.gpus),
    )


def _work(shape: Shape, prepared: Prepared, with_sft: bool) -> Operations:
    def of(table: PairTable | ExampleTable) -> float:
        work = table.work(np.arange(len(table)))
        return shape.flops(work.tokens, work.scored, work.cells)

    train, held_out = (of(PairTable(read(prepared.table(name)))) for name in ("train", "validation"))
    sft = of(ExampleTable(read(prepared.table("sft")))) if with_sft else 0.0
    return Operations(train, held_out, sft, shape.forward)
