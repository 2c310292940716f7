"""The stage sft: a checkpoint for each fraction of the examples; and the tokens per micro-batch that all runs share."""

import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from raydaa.errors import InputError
from raydaa.pipeline.context import Context
from raydaa.pipeline.stage import KEPT, Stage, ensure
from raydaa.pipeline.starts import Start, models_named, sft_fraction
from raydaa.settings.training import TrainingSettings
from raydaa.signals import looking
from raydaa.store.artifacts import key_of, write_json
from raydaa.store.models import local_model
from raydaa.store.output import Output
from raydaa.store.plain import to_plain
from raydaa.store.records import BudgetRecord
from raydaa.store.study_folder import MODEL, TrialFolder
from raydaa.training import launch
from raydaa.training.spec import DataSpec, ObjectiveSpec, Recipe, RunSpec

STAGE = Stage(
    name="sft",
    writes="a checkpoint for each fraction of the examples",
    depends_on="tokenized examples, base weights, SFT settings",
    engine="Ray Train",
    after=("prepare",),
)


def budget(context: Context) -> None:
    """Find the tokens per micro-batch that the GPUs hold, once per study; nothing to find on a CPU."""
    settings = context.settings
    if settings.training.tokens_per_microbatch != "auto" or not context.workers.gpus:
        return
    recipe = _recipe(context, settings.training, settings.sft.learning_rate, 0).with_tokens(1)
    data = DataSpec(train=str(context.prepared.table("train")))
    spec = RunSpec(recipe=recipe, data=data, start=str(context.prepared.base.folder))
    longest = settings.data.max_length
    size = {"workers": context.workers.count, "accelerators": context.resources.accelerators}
    key = key_of(model=context.prepared.base.hash, recipe=to_plain(recipe), longest=longest, **size)
    measured = context.at.budget.read()
    if measured is not None and measured.key == key:
        return
    context.progress.start("budget", "tokens per micro-batch")
    tokens = launch.measure_budget(spec, longest, context.whole_machine)
    context.at.budget.write(BudgetRecord(key, tokens))
    context.progress.end(f"{tokens} tokens")


def sft(context: Context) -> dict[str, Start]:
    """Every model that trials start from or are compared with; SFT checkpoints are trained where missing."""
    settings = context.settings
    starts = {"base": context.prepared.base}
    for name in models_named(settings):
        fraction = sft_fraction(settings, name)
        folder = local_model(name) if fraction is None else _checkpoint(context, sft_work(context, fraction))
        starts[name] = Start.at(name, folder)
    return starts


@dataclass(frozen=True)
class SftWork:
    """One checkpoint: on a share of the examples."""

    fraction: float
    recipe: Recipe
    output: Output

    @property
    def folder(self) -> TrialFolder:
        """The run's, around its model."""
        return TrialFolder(self.output.folder.parent)


def sft_work(context: Context, fraction: float) -> SftWork:
    """What there is to do for one fraction."""
    settings, prepared = context.settings, context.prepared
    sft = settings.sft
    training = replace(settings.training, epochs=sft.epochs, batch_size=sft.batch_size or settings.training.batch_size)
    recipe = replace(_recipe(context, training, sft.learning_rate, sft.seed), fraction=fraction)
    depends_on = recipe.depends_on(prepared.base.hash, prepared.keys["sft"])
    return SftWork(fraction, recipe, Output(context.at.sft, depends_on, inside=MODEL))


def _checkpoint(context: Context, work: SftWork) -> Path:
    total = work.recipe.steps(context.prepared.rows["sft"])

    def make(missing: list[SftWork]) -> str:
        if not missing:
            return KEPT
        for one in missing:
            _train(context, one, total)
        return f"loss {work.folder.read_metrics()[-1]['loss']:.3f}"

    ensure(context, STAGE, f"{total} steps on {work.fraction:.0%} of the examples", [work], make)
    return work.output.folder


def _train(context: Context, work: SftWork, total: int) -> None:
    prepared, folder = context.prepared, work.folder
    spec = RunSpec(
        recipe=work.recipe.with_tokens(context.tokens_of(work.recipe.training)),
        data=DataSpec(train=str(prepared.table("sft"))),
        start=str(prepared.base.folder),
        tokenizer=str(prepared.tokenizer),
    )
    folder.path.mkdir(parents=True, exist_ok=True)
    write_json(folder.spec, spec.to_json())
    with looking(partial(_show_steps, context, folder, total), 1.0):
        result, _ = launch.train(spec, folder.path, context.whole_machine)
    if "failed" in result:
        place, value = "sft.learning_rate", spec.recipe.learning_rate
        if result["failed"].startswith("out of memory"):
            place, value = "training.tokens_per_microbatch", spec.recipe.tokens
        raise InputError(f"{context.study.where}: {place}: {value}: {result['failed']}; lower it")
    shutil.rmtree(folder.checkpoint, ignore_errors=True)


def _recipe(context: Context, training: TrainingSettings, learning_rate: float, seed: int) -> Recipe:
    return Recipe(
        training=training,
        objective=ObjectiveSpec(),
        placement=context.resolved.placement,
        learning_rate=learning_rate,
        seed=seed,
        trust_remote_code=context.settings.model.trust_remote_code,
    )


def _show_steps(context: Context, folder: TrialFolder, total: int) -> None:
    """How far a worker is, by what it logs."""
    if metrics := folder.read_metrics():
        step, loss = metrics[-1]["step"], metrics[-1]["loss"]
        context.progress.update(step, total, f"step {step}/{total}, loss {loss:.3f}")
