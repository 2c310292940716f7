"""The stage harness: the LM Evaluation Harness's tasks for the best models and those beside them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from raydaa.errors import first_line
from raydaa.pipeline.context import Context
from raydaa.pipeline.prepared import prepared_data
from raydaa.pipeline.stage import Batch, OutputStage
from raydaa.pipeline.stages.sft import starts
from raydaa.results import TrialResults
from raydaa.store.artifacts import model_hash
from raydaa.store.output import Output
from raydaa.store.records import HarnessRecord, HarnessScores


@dataclass(frozen=True)
class HarnessWork:
    """Scores of one model on all tasks."""

    title: str
    model: Path
    output: Output


def _harness_work(context: Context) -> list[HarnessWork]:
    """The best trial of each method and ``evaluation.models``; each model once."""
    settings = context.settings.evaluation.lm_eval
    if settings is None:
        return []
    from raydaa.generation.harness import identity

    best = TrialResults.load(context.folder).best_of_each()
    models = {row.title: Path(str(row.checkpoint)) for row in best}
    models |= {f"({name})": context.once(starts)[name].folder for name in context.settings.models_beside}
    common = {"tokenizer": context.once(prepared_data).tokenizer.name, "tasks": identity(settings)}
    work: list[HarnessWork] = []
    for title, model in models.items():
        output = Output(context.at.of_stage(STAGE.name), {"model": model_hash(model), **common})
        work.append(HarnessWork(title, model, output))
    return work


def _batches(context: Context) -> Iterator[Batch[HarnessWork]]:
    settings = context.settings.evaluation.lm_eval
    work = context.once(_harness_work)
    if settings is not None:
        yield Batch(f"{len(work)} models, {', '.join(settings.tasks)}", work)


def _make(context: Context, missing: Sequence[HarnessWork]) -> str:
    """What goes wrong is a failure of the run's: other models' scores, and the report, are there all the same."""
    done = 0
    for work in missing:
        try:
            work.output.seal_record(_ask(context, work.model))
        except Exception as error:  # a task is somebody's code and data: it may raise anything
            context.failures.append(f"evaluation.lm_eval: {type(error).__name__}: {first_line(error)}")
            break
        done += 1
        context.progress.update(done, len(missing), f"{done}/{len(missing)} models")
    return f"{done} models asked"


def _ask(context: Context, model: Path) -> HarnessScores:
    from raydaa.generation.harness import ask
    from raydaa.generation.server import serve

    settings = context.settings.evaluation.lm_eval
    assert settings is not None, "there is work only where there are tasks"
    with serve(model, max_num_seqs=settings.concurrency, gpus=context.settings.generation.gpus) as endpoint:
        return ask(endpoint, model, context.once(prepared_data).tokenizer, settings)


def _write_scores(context: Context) -> None:
    """All that is there, as ``harness.json``."""
    if context.settings.evaluation.lm_eval is None:
        context.at.harness.remove()
        return
    done = [work for work in context.once(_harness_work) if work.output.done]
    context.at.harness.write(HarnessRecord({work.title: work.output.record(HarnessScores) for work in done}))


STAGE = OutputStage(
    name="harness",
    writes="scores of the LM Evaluation Harness's tasks",
    depends_on="weights, tasks",
    engine="Ray Serve and vLLM",
    after=("measure",),
    batches=_batches,
    make=_make,
    finish=_write_scores,
)
