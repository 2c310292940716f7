"""What there is of a study, stage by stage: asked of the outputs themselves, before or after a run, without one."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from raydaa.cluster import expected_resources
from raydaa.pipeline import align, generate, harness, judge, prepare, reference, score, sft
from raydaa.pipeline.context import Context
from raydaa.pipeline.evaluation import Contest, contest
from raydaa.pipeline.stage import Stage, Work
from raydaa.pipeline.starts import Start, base_model, models_named, sft_fraction
from raydaa.progress import Progress
from raydaa.store.artifacts import intact
from raydaa.store.models import local_model
from raydaa.store.records import Trial, TrialState
from raydaa.study import Study
from raydaa.tuning.sweep import Sweep

ROOMS = (prepare, sft, reference, align, generate, score, judge, harness)
REPORT = Stage("report", "tables, figures, one page, the best models", "everything above", "this process", ("judge",))
STAGES = (*(room.STAGE for room in ROOMS), REPORT)


@dataclass(frozen=True)
class StageSurvey:
    """``total`` None: it is known once the stage ``waits_for`` is done."""

    stage: Stage
    done: int
    total: int | None
    waits_for: str | None = None


def survey(study: Study) -> list[StageSurvey]:
    """How much of each stage is there; InputError where the study's input can't be read."""
    found: dict[str, StageSurvey] = {}
    stages = {stage.name: stage for stage in STAGES}

    def note(name: str, done: int, total: int) -> bool:
        found[name] = StageSurvey(stages[name], done, total)
        return done == total

    _walk(study, note)
    first_missing = next((name for name in stages if name not in found or found[name].done != found[name].total), None)
    return [found.get(name) or StageSurvey(stage, 0, None, first_missing) for name, stage in stages.items()]


def _walk(study: Study, note: Callable[[str, int, int], bool]) -> None:
    """Stage by stage, as far as outputs are known: what one depends on is known when those before it are there."""
    base = base_model(study)
    folders = prepare.table_folders(study, base)
    if not note("prepare", sum(map(intact, folders)), len(folders)):
        return
    prepared, _ = prepare.tokenized(study, base)
    prepared = replace(prepared, base=Start.at("base", base))
    context = Context(study, Progress(io.StringIO()), expected_resources(study.settings.scaling.accelerator), prepared)
    starts = {"base": prepared.base}
    shares = {name: sft_fraction(study.settings, name) for name in models_named(study.settings)}
    checkpoints = {name: sft.sft_work(context, share) for name, share in shares.items() if share is not None}
    if not note("sft", *_count(list(checkpoints.values()))):
        return
    for name in shares:
        folder = checkpoints[name].output.folder if name in checkpoints else local_model(name)
        starts[name] = Start.at(name, folder)
    if not note("reference", *_count(reference.reference_work(context, starts))):
        return
    listed = context.at.sweep.read()
    trials = [] if listed is None else list(listed.trials)
    sweep = align.make_sweep(context, partial(align.keyed_recipe, context, starts))
    trials = [trial for trial in trials if trial.key in sweep.trials or sweep.undrawn]
    if not note("align", *_count_trials(sweep, trials)):
        return
    _walk_evaluation(context, contest(context, starts, trials), note)


def _count_trials(sweep: Sweep, listed: Sequence[Trial]) -> tuple[int, int]:
    """How many trials are over, of how many; ``listed`` is what the last run said of them."""
    over = {trial.key for trial in sweep.trials.values() if trial.over}
    for trial in listed:  # that one was stopped does not stand in its folder
        if trial.state == TrialState.STOPPED or (trial.state.is_over and trial.key not in sweep.trials):
            over.add(trial.key)
    return len(over), max(len(sweep.trials) + sweep.undrawn, len(over))


def _walk_evaluation(context: Context, wanted: Contest, note: Callable[[str, int, int], bool]) -> None:
    jobs = wanted.jobs
    if not note("generate", sum(job.output.done for job in jobs), len(jobs)):
        return
    scored = note("score", *_count(score.start_tasks(context, wanted.moved)))
    verdicts = [one for benchmark, jobs in wanted.judgements for one in judge.verdict_work(context, benchmark, jobs)]
    judged = note("judge", *_count(verdicts))
    settings = context.settings.evaluation.lm_eval
    asked = note("harness", *((0, 0) if settings is None else (int(context.at.harness.exists()), 1)))
    note("report", int(scored and judged and asked and context.at.page.exists()), 1)


def _count(work: Sequence[Work]) -> tuple[int, int]:
    return sum(one.output.done for one in work), len(work)


def render_survey(stages: Sequence[StageSurvey]) -> str:
    """A line for each stage: what is done, what would run, and what it depends on."""
    lines = []
    for each in stages:
        if each.total is None:
            state = f"waits for {each.waits_for}"
        elif each.total == 0:
            state = "nothing to do"
        elif each.done == each.total:
            state = f"done ({each.total})"
        else:
            state = f"would make {each.total - each.done} of {each.total}"
        after = ", ".join(each.stage.after) or "the study file"
        lines.append(f"{each.stage.name:<10} {state:<22} after {after}; writes {each.stage.writes}")
    return "\n".join(lines)


def stages_table() -> str:
    """All stages as a Markdown table."""
    header = "| stage | writes | its key is of | engine |\n|---|---|---|---|"
    rows = [f"| `{stage.name}` | {stage.writes} | {stage.depends_on} | {stage.engine} |" for stage in STAGES]
    return "\n".join([header, *rows])
