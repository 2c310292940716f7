"""The stage harness: the LM Evaluation Harness's tasks for the best models and those beside them."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from raydaa.errors import first_line
from raydaa.pipeline.context import Context
from raydaa.pipeline.stage import Stage, ensure
from raydaa.pipeline.starts import Start
from raydaa.results import TrialResults
from raydaa.store.artifacts import model_hash, read_json, write_json
from raydaa.store.output import Output
from raydaa.store.plain import from_plain
from raydaa.store.records import HarnessRecord
from raydaa.store.study_folder import HARNESS_SCORES

STAGE = Stage(
    name="harness",
    writes="scores of the LM Evaluation Harness's tasks",
    depends_on="weights, tasks",
    engine="Ray Serve and vLLM",
    after=("judge",),
)


@dataclass(frozen=True)
class _Scores:
    """Of one model on all tasks."""

    title: str
    model: Path
    output: Output


def harness(context: Context, starts: dict[str, Start], results: TrialResults) -> str | None:
    """Scores of the best trial of each method and of ``evaluation.models``, as ``harness.json``; each model once.

    What went wrong, in one line, where something did: other models' scores are there all the same.
    """
    settings = context.settings.evaluation.lm_eval
    if settings is None:
        context.at.harness.remove()
        return None
    from raydaa.generation.harness import ask, identity
    from raydaa.generation.server import serve

    models = {row.title: Path(str(row.checkpoint)) for row in results.best_of_each()}
    models |= {f"({name})": starts[name].folder for name in context.settings.models_beside}
    common = {"tokenizer": context.prepared.tokenizer.name, "tasks": identity(settings)}
    work = []
    for title, model in models.items():
        output = Output(context.at.harness_scores, {"model": model_hash(model), **common})
        work.append(_Scores(title, model, output))
    failure: str | None = None

    def fill(model: Path, temporary: Path) -> None:
        with serve(model, max_num_seqs=settings.concurrency, gpus=context.settings.generation.gpus) as endpoint:
            write_json(temporary / HARNESS_SCORES, ask(endpoint, model, context.prepared.tokenizer, settings))

    def make(missing: list[_Scores]) -> str:
        nonlocal failure
        made = 0
        for one in missing:
            try:
                one.output.seal(partial(fill, one.model))
            except Exception as error:  # a task is somebody's code and data: it may raise anything
                failure = f"evaluation.lm_eval: {type(error).__name__}: {first_line(error)}"
                break
            made += 1
            context.progress.update(made, len(missing), f"{made}/{len(missing)} models")
        return f"{made} models asked"

    ensure(context, STAGE, f"{len(work)} models, {', '.join(settings.tasks)}", work, make)
    scores = {one.title: read_json(one.output.folder / HARNESS_SCORES) for one in work if one.output.done}
    context.at.harness.write(from_plain(HarnessRecord, {"models": scores}))
    return failure
