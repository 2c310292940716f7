"""The stages that train: sft and align, and the budget they share."""

import shutil
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raydaa.algorithms.catalog import code_hash, method_class
from raydaa.cluster import looking
from raydaa.errors import InputError
from raydaa.pipeline.context import Context, TrialsNow
from raydaa.pipeline.reference import Reference
from raydaa.pipeline.stage import KEPT
from raydaa.pipeline.starts import Start, local_model, models_named, sft_fraction
from raydaa.reporting.tensorboard import export_trial
from raydaa.settings.training import TrainingSettings
from raydaa.store.artifacts import intact, key_of, read_json, write_json
from raydaa.store.mirror import STUDY, push_soon
from raydaa.store.study_folder import TrialFolder, TrialState
from raydaa.training import launch
from raydaa.training.spec import RunSpec
from raydaa.tuning.search_space import Point, export, groups


@dataclass(frozen=True)
class Trial:
    """One line of ``trials.json``: a trial of this study, in the study's order.

    The method's traits are written down, so that nobody needs its code to read the results.
    """

    key: str
    method: str  # what the method calls itself
    title: str
    ranking: str
    state: str
    steps: int
    label: str
    point: Point


def budget(context: Context) -> None:
    """Find the tokens per micro-batch that the GPUs hold, once per study; nothing to find on a CPU."""
    settings = context.settings
    if settings.training.tokens_per_microbatch != "auto" or not context.workers.gpus:
        return
    not_yet = settings.training.model_copy(update={"tokens_per_microbatch": 1})
    spec = RunSpec(
        **_common(context, not_yet),
        batch_size=settings.training.batch_size,
        start=str(context.prepared.base.folder),
        train=str(context.prepared.table("train")),
        learning_rate=settings.sft.learning_rate,
        epochs=1,
        seed=0,
    )
    longest, place = settings.data.max_length, context.at.budget
    size = {"workers": context.workers.count, "accelerators": context.resources.accelerators}
    key = key_of(model=context.prepared.base.hash, spec=spec.to_json(), longest=longest, **size)
    if (read_json(place) or {}).get("key") == key:
        return
    context.progress.start("budget", "tokens per micro-batch")
    tokens = launch.measure_budget(spec, longest, context.alone)
    write_json(place, {"key": key, "tokens": tokens})
    context.progress.end(f"{tokens} tokens")


def sft(context: Context) -> dict[str, Start]:
    """Every model that trials start from or are compared with; SFT checkpoints are trained where missing."""
    settings = context.settings
    starts = {"base": context.prepared.base}
    for name in models_named(settings):
        fraction = sft_fraction(settings, name)
        folder = local_model(name) if fraction is None else _sft_checkpoint(context, fraction)
        starts[name] = Start.at(name, folder)
    return starts


def _sft_checkpoint(context: Context, fraction: float) -> Path:
    settings, prepared = context.settings, context.prepared
    spec = RunSpec(
        **_common(context, settings.training),
        batch_size=settings.sft.batch_size or settings.training.batch_size,
        start=str(prepared.base.folder),
        train=str(prepared.table("sft")),
        learning_rate=settings.sft.learning_rate,
        epochs=settings.sft.epochs,
        seed=settings.sft.seed,
        fraction=fraction,
    )
    folder = context.at.sft(spec.key(prepared.base.hash, prepared.keys["sft"]))
    total = spec.steps(prepared.rows["sft"])
    context.progress.start("sft", f"{total} steps on {fraction:.0%} of the examples")
    if intact(folder.model):
        context.progress.end(KEPT)
        return folder.model
    folder.path.mkdir(parents=True, exist_ok=True)
    write_json(folder.spec, spec.to_json())
    with looking(partial(_show_steps, context, folder, total), 1.0):
        result, _ = launch.train(spec, folder.path, context.alone)
    if "failed" in result:
        place, value = "sft.learning_rate", spec.learning_rate
        if result["failed"].startswith("out of memory"):
            place, value = "training.tokens_per_microbatch", spec.tokens_per_microbatch
        raise InputError(f"{context.study.where}: {place}: {value}: {result['failed']}; lower it")
    shutil.rmtree(folder.checkpoint, ignore_errors=True)
    context.progress.end(f"loss {folder.read_metrics()[-1]['loss']:.3f}")
    return folder.model


def _common(context: Context, training: TrainingSettings) -> dict[str, Any]:
    names = "warmup_ratio max_grad_norm adam_betas weight_decay precision validations".split()
    names += ["checkpoint_every", "checkpoint_minutes", "attention", "gradient_checkpointing"]
    return {
        **{name: getattr(training, name) for name in names},
        "tokens_per_microbatch": context.tokens_of(training),
        "lora": None if training.lora is None else training.lora.model_dump(mode="json"),
        "cpu_offload": context.settings.scaling.cpu_offload,
        "engine": context.engine,
        "zero_stage": context.zero_stage,
        "trust_remote_code": context.settings.model.trust_remote_code,
        "tokenizer": str(context.prepared.tokenizer),
    }


def _show_steps(context: Context, folder: TrialFolder, total: int) -> None:
    """How far a worker is, by what it logs."""
    if metrics := folder.read_metrics():
        step, loss = metrics[-1]["step"], metrics[-1]["loss"]
        context.progress.update(step, total, f"step {step}/{total}, loss {loss:.3f}")


def trial_spec(context: Context, start: Start, reference: Reference, point: Point) -> RunSpec:
    """The run of one trial from ``start``."""
    settings = context.settings
    training = TrainingSettings(**{**settings.training.model_dump(), **point.training})
    early = settings.search.early_stopping
    return RunSpec(
        **_common(context, training),
        batch_size=training.batch_size,
        start=str(start.folder),
        train=str(context.prepared.table("train")),
        validation=str(context.prepared.table("validation")),
        reference=str(reference.pairs),
        mismatched=None if reference.mismatched is None else str(reference.mismatched),
        learning_rate=point.learning_rate,
        epochs=training.epochs,
        seed=point.seed,
        fraction=point.fraction,
        method=point.method,
        code=code_hash(point.method),
        parameters=point.parameters,
        sft_weight=point.sft_weight,
        align_weight=point.align_weight,
        rungs=early.rungs if early else (),
    )


def align(context: Context, starts: dict[str, Start], references: dict[str, Reference]) -> list[Trial]:
    """The sweep: every trial of the study finished, stopped or failed."""
    from raydaa.tuning.schedule import run
    from raydaa.tuning.sweep import Purse, Sweep, SweptTrial
    from raydaa.tuning.trackers import trackers

    def make(point: Point) -> tuple[str, RunSpec]:
        spec = trial_spec(context, starts[point.init], references[point.init], point)
        return spec.key(starts[point.init].hash, context.prepared.keys["pairs"]), spec

    found = groups(context.settings.search, context.settings.data.preferences.fraction)
    early, progress = context.settings.search.early_stopping, context.progress
    workers = context.workers
    limit = context.settings.search.budget
    purse = None if limit is None else Purse(limit, workers.count * (workers.gpus or 1))
    sweep = Sweep(found, make, context.at.trials, early, context.prepared.rows["train"], purse)
    progress.start("align", f"{len(sweep.trials)} trials, {context.concurrent_trials} at a time")
    reached: dict[str, float] = {}

    def notify(trial: SweptTrial, result: dict[str, Any]) -> None:
        context.keep_to(sweep.room)
        reached[trial.key] = result.get("step", 0) / trial.steps
        name = trial.point.label(trial.key)
        if trial.over:
            export_trial(trial.folder, context.at.tensorboard / name)
            if context.mirror is not None:
                push_soon(context.mirror, trial.folder.path, f"{STUDY}/trials/{trial.key}")
        if trial.state == TrialState.FAILED:
            record = trial.folder.read_record()
            progress.line(f"align     {name} failed: {record and record.reason}")
        show()
        work = sum(1.0 if t.over else reached.get(t.key, 0.0) for t in sweep.trials.values())
        over = sum(t.over for t in sweep.trials.values())
        progress.update(work, len(sweep.trials), f"{over}/{len(sweep.trials)} trials over; {name} {trial.state}")

    def show() -> None:
        size = {"workers": context.workers.count, "slots": context.concurrent_trials}
        trials = [asdict(_trial(trial)) for trial in sweep.trials.values()]
        write_json(context.at.sweep, {**size, "trials": trials})

    show()
    asked = trackers(context.settings.tracking, context.settings.name, context.folder)
    run(sweep, workers, TrialsNow(context), notify, list(asked.values()))
    show()
    context.at.optuna.unlink(missing_ok=True)
    export(found, f"sqlite:///{context.at.optuna}")
    trials = [_trial(trial) for trial in sweep.trials.values()]
    write_json(context.at.trial_list, [asdict(trial) for trial in trials])
    states = [trial.state for trial in trials]
    progress.end(", ".join(f"{states.count(s)} {s}" for s in TrialState if s.is_over and s in states))
    if TrialState.FINISHED not in states:
        records = [context.at.trial(trial.key).read_record() for trial in trials]
        reasons = sorted({record.reason for record in records if record is not None})
        raise InputError(f"{context.study.where}: no trial finished: {'; '.join(reasons[:3])}")
    return trials


def _trial(trial: Any) -> Trial:
    point = trial.point
    cls = method_class(point.method)
    return Trial(trial.key, cls.name, point.title, cls.ranking, trial.state, trial.steps, point.label(trial.key), point)
