"""What can be known to go wrong later is refused before anything is started."""

from pathlib import Path

import pyarrow.compute as pc

from raydaa.accelerators import ACCELERATORS, name_there
from raydaa.cluster import blind_nodes
from raydaa.compat.imports import is_installed, quiet_transformers
from raydaa.data.rows import DataError
from raydaa.errors import InputError, first_line
from raydaa.generation.harness import unknown_tasks
from raydaa.generation.serving import available, missing
from raydaa.judging.judge import judge_of
from raydaa.pipeline.benchmark_figures import PublishedDifficulty
from raydaa.pipeline.benchmarks import fixed_baseline
from raydaa.pipeline.context import Context
from raydaa.pipeline.model_checks import check_caches, check_model
from raydaa.pipeline.named_models import base_model, models_named, sft_fraction
from raydaa.pipeline.prepared import Prepared, prepared_data
from raydaa.pipeline.responses import engine_of, on_gpus
from raydaa.settings.base import values_of
from raydaa.settings.study import StudySettings
from raydaa.store.artifacts import read_json, tokenizer_hash
from raydaa.store.models import local_model
from raydaa.store.tables import read
from raydaa.study import Study
from raydaa.training.device import card_memory


def check_inputs(context: Context) -> None:
    """What the study names is there and can be worked with, before anything is made."""
    quiet_transformers()
    check_caches(context.study)
    check_models(context.settings, base_model(context.study))


def check_prepared(context: Context) -> None:
    """The models can be trained on the prepared data, and compared with what was asked for."""
    prepared = context.once(prepared_data)
    check_lengths(context.study, prepared)
    check_baselines(context.settings, prepared)
    check_model(context.study, prepared)


def check_models(settings: StudySettings, base: Path) -> None:
    """Every model that the study names is there and reads the same tokens; what it asks for is installed and set."""
    engine_of(settings)
    for setting, judge in settings.evaluation.judges:
        if judge.judges:
            judge_of(judge).check(setting, on_gpus(settings))
    if settings.evaluation.lm_eval is not None:
        if not is_installed("lm_eval"):
            raise InputError("evaluation.lm_eval: lm_eval is not installed; pip install 'raydaa[lm-eval]'")
        if not available():
            raise InputError(f"evaluation.lm_eval: {missing(on_gpus(settings))}")
        if unknown := unknown_tasks(settings.evaluation.lm_eval):
            raise InputError(f"evaluation.lm_eval.tasks: {unknown[0]!r} is not known; name its folder in include_path")
    for name in type(settings.tracking).model_fields:
        if getattr(settings.tracking, name) is not None and not is_installed(name):
            raise InputError(f"tracking.{name}: {name} is not installed; pip install 'raydaa[{name}]'")
    for name in models_named(settings):
        if sft_fraction(settings, name) is None and tokenizer_hash(local_model(name)) != tokenizer_hash(base):
            raise InputError(f"{name}: has another tokenizer or chat template than the base model; they must agree")


def check_baselines(settings: StudySettings, prepared: Prepared) -> None:
    """Every prompt of a benchmark has the response that models are compared with, where that is no model's."""
    for benchmark in settings.evaluation.benchmarks:
        if benchmark.judged_by(settings.evaluation.judge).judges:
            fixed_baseline(settings, prepared, benchmark)
            try:
                PublishedDifficulty(prepared.table(benchmark.group), benchmark)
            except DataError as error:
                raise InputError(f"{benchmark.name}: {error}") from None


def check_tracking(context: Context) -> None:
    """Every tracker that the study asks for answers."""
    from raydaa.tuning.trackers import trackers

    for name, tracker in trackers(context.settings.tracking, context.settings.name, context.at).items():
        try:
            tracker.setup()
        except Exception as error:  # whatever the tracker's client raises
            raise InputError(f"tracking.{name}: {first_line(error)}") from None


def check_lengths(study: Study, prepared: Prepared) -> None:
    """Sequences of training and generation fit into the model's positions."""
    settings = study.settings
    config = read_json(base_model(study) / "config.json")
    positions = config.get("max_position_embeddings")
    if positions is None:
        return
    if settings.data.max_length > positions:
        raise InputError(f"data.max_length: {settings.data.max_length} exceeds the model's {positions} positions")
    limits = [("prompts", "generation.max_new_tokens", settings.generation.max_new_tokens)]
    for number, benchmark in enumerate(settings.evaluation.benchmarks):
        setting = f"evaluation.benchmarks[{number}].max_new_tokens"
        limits.append((benchmark.group, setting, benchmark.sampling(settings.generation).max_new_tokens))
    for group, setting, new in limits:
        longest = pc.max(pc.list_value_length(read(prepared.table(group))["prompt_tokens"])).as_py()
        if longest + new > positions:
            raise InputError(
                f"{setting}: {new} and the longest prompt's {longest} exceed the model's {positions} positions; "
                f"use at most {positions - longest}"
            )


def check_cluster(context: Context) -> None:
    """The cluster can do what the study asks for."""
    check_accelerator(context)
    check_room(context)
    check_folders(context)
    check_installed(context)
    check_tracking(context)


def check_folders(context: Context) -> None:
    """Every node of a cluster sees what the stages leave for each other."""
    if context.resources.local:
        return
    for setting, folder in {"storage.study": context.folder, "storage.cache": context.study.cache}.items():
        if blind := blind_nodes(folder):
            raise InputError(
                f"{setting}: {folder} is not seen by {', '.join(blind)}; use a file system that all nodes share"
            )


def check_installed(context: Context) -> None:
    """What training and generation import lies where they will run: on a cluster, not on its head."""
    settings = context.settings
    messages = {}
    if "flash_attention_2" in _attentions(settings):
        remedy = "use auto, or pip install --no-build-isolation 'raydaa[flash-attn]'"
        messages["flash_attn"] = f"training.attention: flash_attn is not installed; {remedy}"
    if not context.resources.local and engine_of(settings).served:
        messages["vllm"] = f"generation.engine: {missing(context.workers.gpus > 0)}"
    if not messages:
        return
    installed = _found(list(messages)) if context.resources.local else _found_by_a_worker(context, list(messages))
    for name, message in messages.items():
        if name not in installed:
            raise InputError(f"{message}{'' if context.resources.local else ' on the nodes'}")


def _found(names: list[str]) -> list[str]:
    return [name for name in names if is_installed(name)]


def _found_by_a_worker(context: Context, names: list[str]) -> list[str]:
    """Those of the packages that a process with a worker's resources can import."""
    import ray

    workers = context.workers
    accelerator = workers.accelerator if workers.gpus else None
    look = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus, accelerator_type=accelerator)(_found)
    return list(ray.get(look.remote(names)))


def _attentions(settings: StudySettings) -> list[str]:
    """Every attention that trials are asked to train with."""
    overrides = [
        value for method in settings.search.methods for value in values_of(method.training.get("attention", ()))
    ]
    return [settings.training.attention, *overrides]


def check_accelerator(context: Context) -> None:
    """The cluster has the accelerator that the study names, by whatever name, and it is as large as it says."""
    wanted = context.settings.scaling.accelerator
    there = context.resources.accelerators
    if wanted is None or not there or not context.workers.gpus:
        return
    name = name_there(wanted, there)
    if name is None:
        if not context.resources.local and context.settings.scaling.concurrent_trials != "auto":
            return  # nodes of another kind may come
        raise InputError(f"scaling.accelerator: {wanted!r}; the cluster has {', '.join(there)}")
    if name == wanted or wanted not in ACCELERATORS:
        return
    import ray

    memory = ray.get(ray.remote(num_cpus=0, num_gpus=1, accelerator_type=name)(card_memory).remote())
    if memory < 0.9 * ACCELERATORS[wanted].memory:
        raise InputError(f"scaling.accelerator: {wanted!r}; the cluster's {name} has {memory / 1e9:.0f} GB")


def check_room(context: Context) -> None:
    """The cluster can hold one worker group, and run what the study asks it to."""
    settings = context.settings
    for attention in _attentions(settings):
        if attention in ("flex", "flash_attention_2") and not context.workers.gpus:
            raise InputError(f"training.attention: {attention!r} needs a GPU; use auto or sdpa")
    places = {setting: judge.gpus_of_server for setting, judge in settings.evaluation.judges}
    for setting, gpus in {"generation": settings.generation.gpus, **places}.items():
        if gpus is not None and not context.workers.gpus:
            raise InputError(f"{setting}.gpus: {gpus:g}: the study has no GPU; leave it out")
    placement = context.resolved.placement
    if placement.sharded and settings.scaling.zero_stage == 0 and settings.in_bf16:
        raise InputError("scaling.zero_stage: 0 trains wrongly in bf16; use zero_stage 1, 2 or 3, or precision fp32")
    if context.resolved.slots:  # on a cluster that may grow, those that the study asks for
        return
    group = context.workers
    have = context.resources
    request = f"{group.count} x {group.cpus:g} CPUs" + (
        f" and {group.count} x {group.gpus:g} GPUs" if group.gpus else ""
    )
    raise InputError(
        f"scaling.workers: a trial asks for {request}; the cluster has {have.cpus} CPUs and {have.gpus} GPUs"
        + ("" if have.local else " (where more nodes may come, say how many trials: scaling.concurrent_trials)")
    )
