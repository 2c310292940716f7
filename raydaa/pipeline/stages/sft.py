"""The stage sft: a checkpoint for each fraction of the examples."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from raydaa.errors import InputError
from raydaa.pipeline.context import Context
from raydaa.pipeline.named_models import ModelRef, models_named, sft_fraction
from raydaa.pipeline.prepared import base_ref, prepared_data
from raydaa.pipeline.stage import Batch, OutputStage
from raydaa.pipeline.token_budget import supervised_recipe, tokens_of
from raydaa.signals import looking
from raydaa.store.artifacts import write_json
from raydaa.store.models import local_model
from raydaa.store.output import Output
from raydaa.store.study_folder import MODEL, TrialFolder
from raydaa.training import launch
from raydaa.training.spec import DataSpec, Recipe, RunSpec


@dataclass(frozen=True)
class SftWork:
    """One checkpoint: on a share of the examples."""

    fraction: float
    recipe: Recipe
    steps: int
    output: Output

    @property
    def folder(self) -> TrialFolder:
        """The run's, around its model."""
        return TrialFolder(self.output.folder.parent)


def starts(context: Context) -> dict[str, ModelRef]:
    """Every model that trials start from or are compared with, once it is there."""
    models = {"base": context.once(base_ref)}
    for name in models_named(context.settings):
        fraction = sft_fraction(context.settings, name)
        folder = local_model(name) if fraction is None else _sft_work(context, fraction).output.folder
        models[name] = ModelRef.at(name, folder)
    return models


def _batches(context: Context) -> Iterator[Batch[SftWork]]:
    """Each checkpoint by itself: the whole machine trains one."""
    for name in models_named(context.settings):
        fraction = sft_fraction(context.settings, name)
        if fraction is not None:
            work = _sft_work(context, fraction)
            yield Batch(f"{work.steps} steps on {fraction:.0%} of the examples", [work])


def _sft_work(context: Context, fraction: float) -> SftWork:
    settings = context.settings
    prepared = context.once(prepared_data)
    sft = settings.sft
    training = replace(settings.training, epochs=sft.epochs, batch_size=sft.batch_size or settings.training.batch_size)
    recipe = replace(supervised_recipe(context, training, sft.learning_rate, sft.seed), fraction=fraction)
    depends_on = recipe.depends_on(context.once(base_ref).hash, prepared.keys["sft"])
    output = Output(context.at.of_stage(STAGE.name), depends_on, inside=MODEL)
    return SftWork(fraction, recipe, recipe.steps(prepared.rows["sft"]), output)


def _make(context: Context, missing: Sequence[SftWork]) -> str:
    for work in missing:
        _train(context, work)
    return f"loss {missing[-1].folder.read_metrics()[-1]['loss']:.3f}"


def _train(context: Context, work: SftWork) -> None:
    prepared = context.once(prepared_data)
    folder = work.folder
    spec = RunSpec(
        recipe=work.recipe.with_tokens(tokens_of(context, work.recipe.training)),
        data=DataSpec(train=str(prepared.table("sft"))),
        start=str(context.once(base_ref).folder),
        tokenizer=str(prepared.tokenizer),
    )
    folder.path.mkdir(parents=True, exist_ok=True)
    write_json(folder.spec, spec.to_json())
    with looking(partial(_show_steps, context, work), 1.0):
        result, _ = launch.train(spec, folder.path, context.whole_machine)
    if "failed" in result:
        setting = "sft.learning_rate"
        value = spec.recipe.learning_rate
        if result["failed"].startswith("out of memory"):
            setting = "training.tokens_per_microbatch"
            value = spec.recipe.tokens
        raise InputError(f"{setting}: {value}: {result['failed']}; lower it")
    shutil.rmtree(folder.checkpoint, ignore_errors=True)


def _show_steps(context: Context, work: SftWork) -> None:
    """How far a worker is, by what it logs."""
    if metrics := work.folder.read_metrics():
        step = metrics[-1]["step"]
        loss = metrics[-1]["loss"]
        context.progress.update(step, work.steps, f"step {step}/{work.steps}, loss {loss:.3f}")


STAGE = OutputStage(
    name="sft",
    writes="a checkpoint for each fraction of the examples",
    depends_on="tokenized examples, base weights, SFT settings",
    engine="Ray Train",
    after=("prepare",),
    batches=_batches,
    make=_make,
)
