"""The stage harness: the LM Evaluation Harness's tasks for the best models and those beside them."""

from pathlib import Path

from raydaa.errors import first_line
from raydaa.pipeline.context import Context, Start
from raydaa.results import TrialResults
from raydaa.store.artifacts import key_of, make_folder, model_hash, read_json, write_json


def harness(context: Context, starts: dict[str, Start], results: TrialResults) -> str | None:
    """Scores of the best trial of each method and of ``evaluation.models``, as ``harness.json``; each model once.

    What went wrong, in one line, where something did: other models' scores are there all the same.
    """
    settings = context.settings.evaluation.lm_eval
    if settings is None:
        (context.at.harness).unlink(missing_ok=True)
        return None
    from raydaa.generation.harness import ask, identity
    from raydaa.generation.server import serve

    asked = {row.title: Path(str(row.checkpoint)) for row in results.best_of_each()}
    asked |= {f"({name})": starts[name].folder for name in context.settings.models_beside}
    context.progress.start("harness", f"{len(asked)} models, {', '.join(settings.tasks)}")
    tasks, scores, made, failure = identity(settings), {}, 0, None
    gpus = context.settings.generation.gpus
    for title, model in asked.items():
        folder = (
            context.folder
            / "harness"
            / key_of(model=model_hash(model), tokenizer=context.prepared.tokenizer.name, tasks=tasks)
        )

        def fill(temporary: Path, model: Path = model) -> None:
            with serve(model, max_num_seqs=settings.concurrency, gpus=gpus) as endpoint:
                write_json(temporary / "scores.json", ask(endpoint, model, context.prepared.tokenizer, settings))

        try:
            made += make_folder(folder, fill)
        except Exception as error:  # a task is somebody's code and data: it may raise anything
            failure = f"evaluation.lm_eval: {type(error).__name__}: {first_line(error)}"
            break
        scores[title] = read_json(folder / "scores.json")
        context.progress.update(len(scores), len(asked), f"{len(scores)}/{len(asked)} models")
    write_json(context.at.harness, scores)
    kept = len(scores) - made
    context.progress.end(f"{made} models asked{f'; {kept} kept from before' if kept else ''}")
    return failure
