"""The stage judge: verdicts of every model's responses against the baseline's."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raydaa.artifacts import intact, key_of, make_folder
from raydaa.data.pocket import gold_reward
from raydaa.judging.cache import Ruling, VerdictCache
from raydaa.judging.language import Endpoint, Game, JudgeError, LanguageJudge
from raydaa.judging.prompt import judge_prompt
from raydaa.judging.rule import judge_by_rule
from raydaa.pipeline.context import Context, cache_folder
from raydaa.pipeline.generation import Job
from raydaa.records import VERDICTS, read, write
from raydaa.settings import JudgeSettings
from raydaa.settings_file import InputError


@dataclass(frozen=True)
class _Matches:
    """What is compared: to each prompt the baseline's response, and every contestant's."""

    ids: list[str]
    questions: list[str]
    baseline: list[str]
    responses: dict[str, list[str]]


def judge(context: Context, jobs: dict[str, Job]) -> dict[str, Path]:
    """Verdicts of every contestant against the baseline; folders by name."""
    settings, prepared = context.settings.evaluation, context.prepared
    prompts = read(prepared.table("prompts")).to_pylist()
    responses = {name: read(job.folder / "responses.parquet")["response"].to_pylist() for name, job in jobs.items()}
    if settings.baseline == "chosen":
        against, identity = [row["chosen"] or "" for row in prompts], prepared.keys["prompts"]
    else:
        against, identity = responses[settings.baseline], jobs[settings.baseline].folder.name
    who = _identity(settings.judge)
    keys = {name: key_of(model=job.folder.name, baseline=identity, judge=who) for name, job in jobs.items()}
    folders = {name: context.folder / "verdicts" / key for name, key in keys.items()}
    missing = {name: given for name, given in responses.items() if not intact(folders[name])}
    matches = _Matches([row["prompt_id"] for row in prompts], [row["question"] for row in prompts], against, missing)
    context.progress.start("judge", f"{len(jobs)} models against {settings.baseline}")
    by = {"rule": _by_rule, "openai": _by_model}[settings.judge.kind]
    for name, verdicts in by(context, matches).items():

        def fill(temporary: Path, verdicts: list[dict[str, Any]] = verdicts) -> None:
            write(temporary / "verdicts.parquet", verdicts, VERDICTS)

        make_folder(folders[name], fill)
    context.progress.end(f"{len(jobs) * len(prompts)} verdicts")
    return folders


def _identity(judge: JudgeSettings) -> dict[str, Any]:
    """What a verdict depends on."""
    if judge.kind == "rule":
        return {"function": judge.function, "version": 1}
    asked = judge_prompt(judge.prompt)
    said = {"prompt": asked.name, "version": asked.version, "orders": judge.orders}
    return {"model": judge.model, "base_url": judge.base_url, **said}


def _by_rule(context: Context, matches: _Matches) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [
            asdict(each)
            for each in judge_by_rule(gold_reward, matches.ids, matches.questions, responses, matches.baseline)
        ]
        for name, responses in matches.responses.items()
    }


def _by_model(context: Context, matches: _Matches) -> dict[str, list[dict[str, Any]]]:
    """By a language model; what it said before is not asked again."""
    judge, progress = context.settings.evaluation.judge, context.progress
    endpoint = Endpoint(
        model=judge.model or "",
        base_url=judge.base_url,
        api_key_env=judge.api_key_env,
        concurrency=judge.concurrency,
        timeout=judge.timeout_seconds,
        patience=60 * judge.patience_minutes,
        max_requests=judge.max_requests,
        max_tokens=judge.max_tokens,
    )
    asked = LanguageJudge(endpoint, judge_prompt(judge.prompt), VerdictCache(cache_folder(context.study) / "verdicts"))
    games, seed = list[Game](), context.settings.generation.seed
    for responses in matches.responses.values():
        for name, question, mine, other in zip(
            matches.ids, matches.questions, responses, matches.baseline, strict=True
        ):
            if mine == other:  # a tie that nobody needs to be asked for
                continue
            both = [Game(question, mine, other), Game(question, other, mine)]
            games += both if judge.orders == 2 else [both[int(key_of(seed=seed, prompt=name), 16) % 2]]
    try:
        rulings = asked.rule(games, lambda done, of: progress.update(done, of, f"{done}/{of} comparisons"))
    except JudgeError as error:
        raise InputError(f"{context.study.where}: evaluation.judge: {error}; the same command goes on") from None
    said = {(game.first, game.second, game.prompt): ruling for game, ruling in zip(games, rulings, strict=True)}
    return {name: _verdicts(matches, responses, said) for name, responses in matches.responses.items()}


def _verdicts(
    matches: _Matches, responses: Sequence[str], said: dict[tuple[str, str, str], Ruling]
) -> list[dict[str, Any]]:
    """Both orders averaged; one alone where the other was not asked for or can't be read. Equal responses tie."""
    rows = []
    for name, question, mine, other in zip(matches.ids, matches.questions, responses, matches.baseline, strict=True):
        first, second = said.get((mine, other, question)), said.get((other, mine, question))
        row: dict[str, Any] = {"prompt_id": name, "outcome": 0.5 if mine == other else None}
        if first is not None:
            row |= {"first": first.outcome, "first_comment": first.text}
        if second is not None:
            row |= {"second": None if second.outcome is None else 1 - second.outcome, "second_comment": second.text}
        heard = [row[order] for order in ("first", "second") if row.get(order) is not None]
        rows.append(row | ({"outcome": sum(heard) / len(heard)} if heard else {}))
    return rows
