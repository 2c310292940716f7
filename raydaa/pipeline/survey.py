"""What there is of a study, stage by stage: asked of the outputs themselves, before or after a run, without one."""

from collections.abc import Sequence
from dataclasses import dataclass

from raydaa.pipeline.context import looking_context
from raydaa.pipeline.graph import all_stages, before
from raydaa.pipeline.stage import Stage, StageDescription
from raydaa.study import Study


@dataclass(frozen=True)
class StageSurvey:
    """``total`` None: it is known once the stage ``waits_for`` is done."""

    stage: StageDescription
    done: int
    total: int | None
    waits_for: str | None = None


def survey(study: Study) -> list[StageSurvey]:
    """How much of each stage is there; an error of raydaa's own where the study's input can't be read."""
    context = looking_context(study)
    surveys: dict[str, StageSurvey] = {}
    for stage in all_stages():
        waits_for = next(filter(None, (_not_complete(surveys[name]) for name in before(stage))), None)
        if waits_for is not None:
            surveys[stage.name] = StageSurvey(_described(stage), 0, None, waits_for)
        else:
            count = stage.count(context)
            surveys[stage.name] = StageSurvey(_described(stage), count.done, count.total)
    return list(surveys.values())


def _described(stage: Stage) -> StageDescription:
    """What a stage is, without what it does."""
    after = [other.name for other in all_stages() if other.name in before(stage)]
    return StageDescription(stage.name, stage.writes, stage.depends_on, stage.engine, tuple(after))


def _not_complete(stage: StageSurvey) -> str | None:
    """What those after it wait for: it, or what it waits for itself."""
    return stage.waits_for or (None if stage.done == stage.total else stage.stage.name)


def render_survey(stages: Sequence[StageSurvey]) -> str:
    """A line for each stage: what is done, what would run, and what it depends on."""
    lines: list[str] = []
    for survey in stages:
        if survey.total is None:
            state = f"waits for {survey.waits_for}"
        elif survey.total == 0:
            state = "nothing to do"
        elif survey.done == survey.total:
            state = f"done ({survey.total})"
        else:
            state = f"would make {survey.total - survey.done} of {survey.total}"
        after = ", ".join(survey.stage.after) or "the study file"
        lines.append(f"{survey.stage.name:<10} {state:<22} after {after}; writes {survey.stage.writes}")
    return "\n".join(lines)


def descriptions() -> list[StageDescription]:
    """What each stage is."""
    return [_described(stage) for stage in all_stages()]


def stages_table() -> str:
    """All stages as a Markdown table."""
    header = "| stage | writes | its key is of | engine |\n|---|---|---|---|"
    rows = [f"| `{stage.name}` | {stage.writes} | {stage.depends_on} | {stage.engine} |" for stage in all_stages()]
    return "\n".join([header, *rows])
