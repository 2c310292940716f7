"""What a study will take, before anything is started: trials, steps, memory, GPU-hours, disk.

Looks at the data where it is at hand, and says what it could not look at. The sweep is not estimated but simulated: the
brackets are the real ones, on trials that need no time.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from raydaa.accelerators import ACCELERATORS, Accelerator
from raydaa.algorithms.catalog import method_class
from raydaa.cluster import expected_resources
from raydaa.compat.imports import quiet_transformers
from raydaa.data.packing import ExampleTable, PairTable
from raydaa.data.prepare import TooManyRejectsError
from raydaa.data.rows import DataError
from raydaa.errors import InputError, first_line
from raydaa.pipeline.context import looking_context
from raydaa.pipeline.named_models import base_model, sft_fraction
from raydaa.pipeline.prepared import Prepared, preparation, prepared_data, tokenizer_folder
from raydaa.pipeline.resolve import Resolved, resolve
from raydaa.pipeline.token_budget import ON_CPU
from raydaa.pipeline.trials import trial_recipe
from raydaa.planning.judging import plan_judging
from raydaa.planning.values import DataPlan, DiskPlan, MemoryPlan, Plan, SavingPlan, StepPlan, TrialCount, WorkPlan
from raydaa.settings.study import StudySettings
from raydaa.store.records import Point, TrialState
from raydaa.store.tables import read
from raydaa.study import Study
from raydaa.training.checkpoint import RATE, foreseen
from raydaa.training.memory import Layout, Shape, memory
from raydaa.training.spec import Recipe, in_half
from raydaa.training.token_budget import SHARE
from raydaa.training.tokenizer import TokenizerError, load_tokenizer
from raydaa.tuning.ledger import Ledger
from raydaa.tuning.search_space import groups, title_of
from raydaa.tuning.simulate import SimulatedSweep, simulate
from raydaa.tuning.sweep import Sweep
from raydaa.tuning.sweep_budget import SweepBudget

UTILISATION = 0.4  # of a card's operations: an assumption, to be replaced by what a first trial shows
UNKNOWN_STEPS = 100  # of a trial whose data could not be looked at; only shares are told then


@dataclass(frozen=True)
class Operations:
    """Operations of one pass over the tables."""

    train: float  # of all training pairs, forward and backward
    held_out: float
    sft: float
    forward: float  # the share of a forward pass in each


def make_plan(study: Study) -> Plan:
    """InputError where the study can't be planned at all."""
    quiet_transformers()
    settings = study.settings
    search = study.settings.search
    prepared, data, problems = _look_at_data(study)
    resolved = resolve(settings, expected_resources(settings.scaling.accelerator))
    size = UNKNOWN_STEPS * settings.training.batch_size if prepared is None else prepared.rows["train"]
    sweep, whole = (_simulate(settings, resolved, size, early) for early in (True, False))
    brackets = list({id(trial.bracket): trial.bracket for trial in sweep.trials}.values())
    counts = Counter((trial.point.init, title_of(trial.point)) for trial in sweep.trials)
    shape: Shape | None = None
    try:
        shape = _shape_of(study)
    except (OSError, ValueError) as error:
        reason = first_line(error)
        problems.append(f"model: could not be looked at, so memory is not known; give model.config: {reason}")
    work = None if shape is None or prepared is None else _operations(shape, prepared, bool(settings.data.sft))
    finished = [trial.point for trial in sweep.trials if trial.state == TrialState.FINISHED]
    longest: dict[str, int] = {}  # of each method's trials
    for trial in sweep.trials:
        title = title_of(trial.point)
        longest[title] = max(longest.get(title, 0), trial.steps)
    return Plan(
        name=settings.name,
        trials=tuple(TrialCount(count, title, init) for (init, title), count in counts.items()),
        steps=StepPlan(
            planned=sum(trial.reached for trial in sweep.trials),
            without_early_stopping=sum(trial.reached for trial in whole.trials),
            trials_finished=len(finished),
            sized=prepared is not None,
            brackets=len(brackets),
            brackets_of_one=sum(len(bracket.settings) == 1 for bracket in brackets) if search.early_stopping else 0,
            finalists=len(longest) * len(search.fresh_seeds),
            finalist_steps=sum(longest.values()) * len(search.fresh_seeds),
        ),
        data=data,
        problems=tuple(problems),
        memory=None if shape is None else _memory(settings, resolved, shape),
        work=None if work is None else _work(settings, work, sweep, whole),
        saving=None if work is None or shape is None else _saving(settings, resolved, shape, work, sweep),
        judging=() if work is None or prepared is None else tuple(plan_judging(settings, prepared, finished)),
        disk=None if shape is None else _disk(settings, resolved, shape, sweep),
    )


def _look_at_data(study: Study) -> tuple[Prepared | None, DataPlan | None, list[str]]:
    context = looking_context(study)
    try:
        tables = context.once(preparation)
        tables.make_missing(load_tokenizer(context.once(tokenizer_folder), study.settings.model.trust_remote_code))
    except TooManyRejectsError as error:
        return None, None, [f"data: the study would stop here: {error}"]
    except (InputError, DataError, TokenizerError) as error:
        return None, None, [f"data: could not be looked at, so tokens and hours are not known: {error}"]
    report = tables.read_report()
    prepared = context.once(prepared_data)
    rejected = {reason: count for reason, count in report.rejected.items() if count}
    notes = {note: count for note, count in report.notes.items() if count}
    return prepared, DataPlan(prepared.rows, rejected, notes), []


def _card(settings: StudySettings) -> Accelerator | None:
    """The card that the study asks for, where it is known."""
    return ACCELERATORS.get(settings.scaling.accelerator or "")


def _shape_of(study: Study) -> Shape:
    from transformers import AutoConfig

    model = study.settings.model
    source = model.config or (base_model(study) if model.source == "pocket" else model.source)
    config = AutoConfig.from_pretrained(source, trust_remote_code=model.trust_remote_code)
    return Shape.of(config, study.settings.training.lora)


def _simulate(
    settings: StudySettings, resolved: Resolved, table_size: int, with_early_stopping: bool
) -> SimulatedSweep:
    search = settings.search

    def make(point: Point) -> tuple[str, Recipe]:
        recipe = trial_recipe(settings, resolved.placement, point)
        return recipe.key(point.init, ""), recipe

    points = groups(search, settings.data.preferences.fraction)
    budget = None if search.budget is None else SweepBudget(search.budget)
    early = search.early_stopping if with_early_stopping else None
    return simulate(Sweep(points, make, Ledger(), early, table_size, budget))


def _memory(settings: StudySettings, resolved: Resolved, shape: Shape) -> MemoryPlan:
    training = settings.training
    group = resolved.group
    placement = resolved.placement
    layout = Layout(
        sharded=placement.sharded,
        workers=group.count,
        zero_stage=placement.zero_stage,
        bf16=training.precision == "bf16",
        gradient_checkpointing=training.gradient_checkpointing,
        cpu_offload=placement.cpu_offload,
        on_gpu=bool(group.gpus),
    )
    held = memory(shape, layout)
    longest = settings.data.max_length
    few = longest if group.gpus else ON_CPU
    tokens = max(longest, few if training.tokens_per_microbatch == "auto" else training.tokens_per_microbatch)
    card = _card(settings)
    return MemoryPlan(
        workers=group.count,
        zero_stage=placement.zero_stage if layout.sharded else None,
        precision=training.precision,
        tokens=tokens,
        weights=held.weights,
        gradients=held.gradients,
        optimizer=held.optimizer,
        activations=held.at(tokens) - held.fixed,
        parameters=shape.parameters,
        card=None if card is None else settings.scaling.accelerator,
        card_memory=None if card is None else card.memory,
        most_tokens=None if card is None else held.tokens(SHARE * card.memory),
    )


def _work(settings: StudySettings, work: Operations, sweep: SimulatedSweep, whole: SimulatedSweep) -> WorkPlan:
    starts = {trial.point.init for trial in sweep.trials}
    needing = {t.point.init for t in sweep.trials if method_class(t.point.method).needs_reference}
    shares = [sft_fraction(settings, init) for init in starts if init != "base"]
    fractions = {share for share in shares if share is not None}
    operations = {
        "sft": sum(fractions) * work.sft * settings.sft.epochs,
        "reference": work.forward * (len(needing) * work.train + len(starts) * work.held_out),
        "trials": _aligning(settings, work, sweep),
        "trials without early stopping": _aligning(settings, work, whole),
        "trials without early stopping and with a live reference": _aligning(settings, work, whole, live=True),
    }
    card = _card(settings)
    price = settings.scaling.price_per_gpu_hour
    if card is None:
        return WorkPlan(operations)
    hours = {name: value / (card.rate * UTILISATION) / 3600 for name, value in operations.items()}
    total = hours["sft"] + hours["reference"] + hours["trials"]
    cost = None if price is None else total * price
    return WorkPlan(operations, settings.scaling.accelerator, UTILISATION, hours, total, price, cost)


def _aligning(settings: StudySettings, work: Operations, sweep: SimulatedSweep, live: bool = False) -> float:
    """Operations of all trials; ``live``: with a pass over the reference model at every step."""
    early = settings.search.early_stopping
    total = 0.0
    rungs = len(early.rungs) if early else 0
    for trial in sweep.trials:
        share = trial.reached / trial.steps
        training = trial.recipe.training
        checks = share * (training.validations + rungs) * work.forward * work.held_out
        step = work.train * training.epochs * trial.recipe.fraction * share
        more = work.forward if live and method_class(trial.point.method).needs_reference else 0.0
        total += checks + step * (1 + more)
    return total


def _saving(
    settings: StudySettings, resolved: Resolved, shape: Shape, work: Operations, sweep: SimulatedSweep
) -> SavingPlan | None:
    """What the checkpoints of the longest trial take of its time."""
    card = _card(settings)
    group = resolved.group
    if card is None:
        return None
    longest = max((trial.recipe for trial in sweep.trials), key=_passes)
    seconds = work.train * _passes(longest) / (card.rate * UTILISATION * group.count * group.gpus)
    size = shape.checkpoint(in_half(settings.training, resolved.placement))
    saved = foreseen(seconds, longest.rungs, longest.training.checkpoint_minutes, size)
    return SavingPlan(len(saved), size, seconds / 60, len(saved) * size / RATE / seconds, RATE)


def _passes(recipe: Recipe) -> float:
    """How often a run sees all training pairs."""
    return recipe.training.epochs * recipe.fraction


def _disk(settings: StudySettings, resolved: Resolved, shape: Shape, sweep: SimulatedSweep) -> DiskPlan:
    model = shape.parameters * (2 if settings.training.precision == "bf16" else 4)
    checkpoint = shape.checkpoint(in_half(settings.training, resolved.placement))
    finished = [trial for trial in sweep.trials if trial.state == TrialState.FINISHED]
    best = len({trial.point.method for trial in finished})
    running = max(1, resolved.slots)
    kept = (len(settings.sft.fractions) + len(finished) + best) * model
    peak = kept + (sweep.waiting + 2 * running) * checkpoint  # a new checkpoint is whole before the old one goes
    return DiskPlan(peak, len(finished), best, sweep.waiting, running)


def _operations(shape: Shape, prepared: Prepared, with_sft: bool) -> Operations:
    def of(table: PairTable | ExampleTable) -> float:
        work = table.work(np.arange(len(table)))
        return shape.flops(work.tokens, work.scored, work.cells)

    train, held_out = (of(PairTable(read(prepared.table(name)))) for name in ("train", "validation"))
    sft = of(ExampleTable(read(prepared.table("sft")))) if with_sft else 0.0
    return Operations(train, held_out, sft, shape.forward)
