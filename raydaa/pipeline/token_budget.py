"""The tokens per micro-batch that all runs of a study share: what the study says, or what its GPUs hold."""

from dataclasses import replace

from raydaa.pipeline.context import Context
from raydaa.pipeline.prepared import base_ref, prepared_data
from raydaa.settings.training import TrainingSettings
from raydaa.store.artifacts import key_of
from raydaa.store.plain import to_plain
from raydaa.store.records import BudgetRecord
from raydaa.training import launch
from raydaa.training.reference import Scoring
from raydaa.training.spec import DataSpec, ObjectiveSpec, Recipe, RunSpec

ON_CPU = 1024  # beyond it larger products gain nothing; a fixed number keeps results the same from run to run


def measure_tokens(context: Context) -> None:
    """Find the tokens per micro-batch that the GPUs hold, once per study; nothing to find on a CPU."""
    settings = context.settings
    if settings.training.tokens_per_microbatch != "auto" or not context.workers.gpus:
        return
    recipe = supervised_recipe(context, settings.training, settings.sft.learning_rate, 0).with_tokens(1)
    data = DataSpec(train=str(context.once(prepared_data).table("train")))
    spec = RunSpec(recipe=recipe, data=data, start=str(context.once(base_ref).folder))
    longest = settings.data.max_length
    size = {"workers": context.workers.count, "accelerators": context.resources.accelerators}
    key = key_of(model=context.once(base_ref).hash, recipe=to_plain(recipe), longest=longest, **size)
    measured = context.at.budget.read()
    if measured is not None and measured.key == key:
        return
    context.progress.start("budget", "tokens per micro-batch")
    tokens = launch.measure_budget(spec, longest, context.whole_machine)
    context.at.budget.write(BudgetRecord(key, tokens))
    context.progress.end(f"{tokens} tokens")


def tokens_of(context: Context, training: TrainingSettings) -> int:
    """Tokens per micro-batch: what the study says, else what was measured, else a fixed number for CPUs."""
    if training.tokens_per_microbatch != "auto":
        return training.tokens_per_microbatch
    if not context.workers.gpus:
        return ON_CPU
    measured = context.at.budget.read()
    assert measured is not None, "the budget is measured before anything trains"
    return measured.tokens


def lower_tokens(context: Context, tokens: int | None) -> None:
    """What was measured was too much for a trial: also a run that takes the study up again begins with less."""
    measured = None if tokens is None else context.at.budget.read()
    if tokens is not None and measured is not None and tokens < measured.tokens:
        context.at.budget.write(replace(measured, tokens=tokens))


def supervised_recipe(context: Context, training: TrainingSettings, learning_rate: float, seed: int) -> Recipe:
    """The run of a model on examples."""
    return Recipe(
        training=training,
        objective=ObjectiveSpec(),
        placement=context.resolved.placement,
        learning_rate=learning_rate,
        seed=seed,
        trust_remote_code=context.settings.model.trust_remote_code,
    )


def scoring_of(context: Context, attention: str = "auto") -> Scoring:
    """How a model that is not trained is asked for log-probabilities."""
    settings = context.settings
    return Scoring(
        precision=settings.training.precision,
        budget=tokens_of(context, settings.training),
        attention=attention,
        trust_remote_code=settings.model.trust_remote_code,
        apart=context.resolved.apart,
        cpu_offload=settings.scaling.cpu_offload,
    )
