"""The stage judge: verdicts of every model's responses against the baseline's."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from raydaa.cluster import map_on_cluster
from raydaa.errors import InputError, first_line
from raydaa.judging.cache import Ruling, VerdictCache
from raydaa.judging.language import Endpoint, Game, JudgeError, LanguageJudge, Spent
from raydaa.judging.prompt import judge_prompt
from raydaa.judging.rule import compared, rule_identity, rule_of
from raydaa.pipeline.benchmarks import Benchmark
from raydaa.pipeline.context import Context
from raydaa.pipeline.generation import Job
from raydaa.pipeline.stage import Output, ensure
from raydaa.pipeline.starts import local_model
from raydaa.settings.judge import JudgeSettings
from raydaa.store.artifacts import key_of, model_hash, tokenizer_hash
from raydaa.store.tables import REWARDS, VERDICTS, read, write

Rows = list[dict[str, Any]]
NOTHING_TO_JUDGE = (
    "every response equals the baseline's; train longer or at a higher rate, or generate at a higher temperature"
)


@dataclass(frozen=True)
class _Matches:
    """What is compared: to each prompt the baseline's response, and every contestant's."""

    prompts: Rows
    baseline: list[str]
    responses: dict[str, list[str]]

    @property
    def ids(self) -> list[str]:
        return [row["prompt_id"] for row in self.prompts]

    def games(self, responses: Sequence[str]) -> list[tuple[dict[str, Any], str, str]]:
        """Prompt, the contestant's response and the baseline's."""
        return list(zip(self.prompts, responses, self.baseline, strict=True))


@dataclass(frozen=True)
class _Verdicts:
    """On one contestant's responses."""

    name: str
    output: Output


def judge(context: Context, benchmark: Benchmark, by: JudgeSettings, jobs: dict[str, Job]) -> dict[str, Path]:
    """Verdicts of every contestant's responses to the benchmark's prompts against the baseline's; folders by name."""
    prompts = read(benchmark.table).to_pylist()
    responses = {name: read(job.folder / "responses.parquet")["response"].to_pylist() for name, job in jobs.items()}
    if benchmark.fixed is not None:
        against, identity = list(benchmark.fixed), key_of(responses=benchmark.fixed)
    else:
        against, identity = responses[benchmark.baseline], jobs[benchmark.baseline].output.key
    who = _identity(by)
    verdicts = {}
    for name, job in jobs.items():
        depends_on = {"model": job.output.key, "baseline": identity, "judge": who}
        verdicts[name] = _Verdicts(name, Output(context.at.verdicts, depends_on))

    def make(missing: list[_Verdicts]) -> str:
        if missing:
            others = {name: given for name, given in responses.items() if name != benchmark.baseline}
            if by.by_language and others and all(given == against for given in others.values()):
                raise _stopped(context, NOTHING_TO_JUDGE)
            matches = _Matches(prompts, against, {one.name: responses[one.name] for one in missing})
            for name, rows in JUDGES[by.kind](context, by, matches).items():
                _check_readable(context, matches, name, rows)
                verdicts[name].output.seal(partial(_write_verdicts, rows))
        return f"{len(jobs) * len(prompts)} verdicts"

    against_whom = Path(benchmark.baseline).name if benchmark.fixed is not None else benchmark.baseline
    about = f"{len(jobs)} models against {against_whom}, {benchmark.label}"
    ensure(context, "judge", about, list(verdicts.values()), make, tell_kept=False)
    return {name: one.output.folder for name, one in verdicts.items()}


def _write_verdicts(rows: Rows, folder: Path) -> None:
    write(folder / "verdicts.parquet", rows, VERDICTS)


def _check_readable(context: Context, matches: _Matches, name: str, verdicts: Rows) -> None:
    """InputError where the judge was understood on less than half of what it was asked: its figures would say nothing,
    or speak of the few responses that equal the baseline's."""
    asked = [
        row
        for row, (_, mine, other) in zip(verdicts, matches.games(matches.responses[name]), strict=True)
        if mine != other
    ]
    readable = sum(row["outcome"] is not None for row in asked)
    if 2 * readable >= len(asked):
        return
    unread = next(row for row in asked if row["outcome"] is None)
    comment = next((unread[key] for key in ("first_comment", "second_comment") if unread.get(key)), None)
    example = "" if comment is None else f", e.g. {' '.join(comment.split())[:120]!r}"
    raise InputError(
        f"{context.study.where}: evaluation.judge: only {readable} of {len(asked)} verdicts can be read{example}; "
        f"use another judge, judge.prompt or judge.parameters"
    )


def _identity(judge: JudgeSettings) -> dict[str, Any]:
    """What a verdict depends on."""
    if judge.kind == "rule":
        return rule_identity(judge.function)
    if judge.kind == "reward_model":
        return {"reward_model": _model_identity(judge)}
    asked = judge_prompt(judge.prompt or "")
    said: dict[str, Any] = {"prompt": asked.name, "version": asked.version, "orders": judge.orders}
    if judge.parameters:
        said["parameters"] = judge.parameters
    if judge.kind == "served":
        return {"served": _model_identity(judge), **said}
    return {"model": judge.model, "base_url": judge.base_url, **said}


def _model_identity(judge: JudgeSettings) -> str:
    """Of a judge's weights, and of how it reads text."""
    folder = local_model(judge.model or "")
    return key_of(weights=model_hash(folder), tokenizer=tokenizer_hash(folder))


def _by_rule(context: Context, by: JudgeSettings, matches: _Matches) -> dict[str, Rows]:
    rule, questions = rule_of(by.function), [row["question"] for row in matches.prompts]

    def rewards(responses: Sequence[str]) -> list[float]:
        try:
            return [float(rule(question, answer)) for question, answer in zip(questions, responses, strict=True)]
        except Exception as error:  # of a function of the user's
            raise _stopped(context, f"{by.function} raised {type(error).__name__}: {first_line(error)}") from None

    against = rewards(matches.baseline)
    return {name: compared(matches.ids, rewards(given), against) for name, given in matches.responses.items()}


def _stopped(context: Context, why: str, passing: bool = False) -> InputError:
    """What ends the stage; ``passing``: without anything being mended it may not end the next run."""
    kept = "the same command goes on" if passing else "what is judged is kept"
    return InputError(f"{context.study.where}: evaluation.judge: {why}; {kept}")


def _by_reward(context: Context, by: JudgeSettings, matches: _Matches) -> dict[str, Rows]:
    """By a reward model; a response that it has scored before is not scored again."""
    model = local_model(by.model or "")
    identity, workers, settings = _model_identity(by), context.workers, context.settings
    texts = [json.loads(row["messages"]) for row in matches.prompts]
    given = {"": matches.baseline, **matches.responses}
    precision = settings.training.precision if workers.gpus else "fp32"
    outputs, items = {}, []
    for name, responses in given.items():
        depends_on = {"model": identity, "prompts": texts, "responses": responses, "precision": precision}
        outputs[name] = Output(context.at.rewards, depends_on)
        if not outputs[name].done:
            common = (precision, settings.model.trust_remote_code, workers.threads)
            items.append((outputs[name], str(model), texts, responses, *common))
    try:
        map_on_cluster(
            reward_in_process,
            items,
            workers.cpus,
            workers.gpus,
            lambda done: context.progress.update(done, len(items), f"{done}/{len(items)} models"),
        )
    except Exception as error:  # whatever loading or running a model of the user's raises, in a task
        raise _stopped(context, str(error).strip().splitlines()[-1]) from None
    rewards = {name: read(one.folder / "rewards.parquet")["reward"].to_pylist() for name, one in outputs.items()}
    return {name: compared(matches.ids, rewards[name], rewards[""]) for name in matches.responses}


def reward_in_process(
    output: Output,
    model: str,
    prompts: list[list[dict[str, str]]],
    responses: list[str],
    precision: str,
    trust: bool,
    threads: int,
) -> None:
    """Rewards of responses, as one sealed folder."""
    import torch

    from raydaa.compat.imports import quiet_transformers
    from raydaa.judging.reward_model import load_reward_model, reward_scores
    from raydaa.training.device import device_of_worker
    from raydaa.training.launch import prepare_process

    def fill(temporary: Path) -> None:
        prepare_process(threads)
        quiet_transformers()
        device = device_of_worker()
        dtype = torch.bfloat16 if precision == "bf16" and device.type == "cuda" else torch.float32
        loaded, tokenizer = load_reward_model(Path(model), dtype, trust)
        scores = reward_scores(loaded.to(device), tokenizer, prompts, responses)
        write(temporary / "rewards.parquet", [{"reward": score} for score in scores], REWARDS)

    output.seal(fill)


def _by_model(context: Context, by: JudgeSettings, matches: _Matches) -> dict[str, Rows]:
    """By a language model; what it said before is not asked again."""
    progress, seed = context.progress, context.settings.generation.seed
    endpoint = Endpoint(
        model=by.model or "",
        base_url=by.base_url,
        api_key_env=by.api_key_env,
        concurrency=by.concurrency,
        timeout=by.timeout_seconds,
        patience=60 * by.patience_minutes,
        max_requests=by.max_requests,
        max_tokens=by.max_tokens,
        parameters=by.parameters,
    )
    if by.kind == "served":
        model = local_model(by.model or "")
        endpoint = replace(endpoint, base_url=None, api_key_env=None, name=f"{model.name} {_model_identity(by)}")
    cache = VerdictCache(context.study.cache / "verdicts")
    spent = context.spending.setdefault(f"{by.kind} {by.model} {by.base_url}", Spent())
    asked, games = LanguageJudge(endpoint, judge_prompt(by.prompt or ""), cache, spent), list[Game]()
    for responses in matches.responses.values():
        for row, mine, other in matches.games(responses):
            if mine == other:  # a tie that nobody needs to be asked for
                continue
            both = [Game(row["question"], mine, other), Game(row["question"], other, mine)]
            games += both if by.orders == 2 else [both[int(key_of(seed=seed, prompt=row["prompt_id"]), 16) % 2]]

    def told(done: int, of: int) -> None:
        progress.update(done, of, f"{done}/{of} comparisons")

    try:
        if by.kind == "served" and asked.missing(games):
            from raydaa.generation.server import serve

            with serve(model, max_num_seqs=by.concurrency, gpus=by.gpus) as there:
                asked.endpoint = replace(endpoint, model=there.model, base_url=there.url)
                rulings = asked.rule(games, told)
        else:
            rulings = asked.rule(games, told)
    except JudgeError as error:
        raise _stopped(context, str(error), error.passing) from None
    said = {(game.first, game.second, game.prompt): ruling for game, ruling in zip(games, rulings, strict=True)}
    return {name: _verdicts(matches, responses, said) for name, responses in matches.responses.items()}


def _verdicts(matches: _Matches, responses: Sequence[str], said: dict[tuple[str, str, str], Ruling]) -> Rows:
    """Both orders averaged; one alone where the other was not asked for or can't be read. Equal responses tie."""
    rows = []
    for prompt, mine, other in matches.games(responses):
        question = prompt["question"]
        first, second = said.get((mine, other, question)), said.get((other, mine, question))
        row: dict[str, Any] = {"prompt_id": prompt["prompt_id"], "outcome": 0.5 if mine == other else None}
        for order, ruling in (("first", first), ("second", second)):
            if ruling is None:
                continue
            outcome = ruling.outcome if order == "first" or ruling.outcome is None else 1 - ruling.outcome
            row |= {order: outcome, f"{order}_weight": ruling.weight, f"{order}_comment": ruling.text}
            for name in ("prompt_tokens", "completion_tokens"):
                row[name] = row.get(name, 0) + getattr(ruling, name)
        heard = [row[order] for order in ("first", "second") if row.get(order) is not None]
        rows.append(row | ({"outcome": sum(heard) / len(heard)} if heard else {}))
    return rows


JUDGES: dict[str, Callable[[Context, JudgeSettings, _Matches], dict[str, Rows]]] = {
    "rule": _by_rule,
    "reward_model": _by_reward,
    "openai": _by_model,
    "served": _by_model,
}
