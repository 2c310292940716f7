"""The generate stage: responses of many models to the study's prompts, by vLLM or in process."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raydaa.accelerators import has_gpus
from raydaa.data.chat import ChatFormat
from raydaa.errors import InputError
from raydaa.generation.pool import served
from raydaa.generation.sample import Response, Sampling
from raydaa.generation.serving import Serving, available, missing
from raydaa.pipeline.context import Context
from raydaa.pipeline.stage import Stage, ensure
from raydaa.pipeline.starts import Start
from raydaa.settings.study import StudySettings
from raydaa.store.artifacts import key_of
from raydaa.store.output import Output
from raydaa.store.tables import GENERATIONS, column, read
from raydaa.training.workers import map_on_workers

# Tokens times bytes of weights: what a process on a CPU generates while another one does its imports.
WORTH_A_PROCESS = 20_000_000_000

STAGE = Stage(
    name="generate",
    writes="responses with log-probabilities",
    depends_on="weights, prompts, sampling, engine",
    engine="Ray Serve and vLLM, or transformers",
    after=("align",),
)


@dataclass(frozen=True)
class Job:
    """Responses of one model to the first ``prompts`` prompts of a table."""

    model: Start
    sampling: Sampling
    table: Path
    prompts: int
    output: Output
    tokenizer: Path  # as `study_tokenizer` makes it

    @property
    def folder(self) -> Path:
        """Where the responses lie."""
        return self.output.folder

    @property
    def tokens(self) -> int:
        """That are written at most."""
        return self.prompts * self.sampling.max_new_tokens

    def rows(self) -> list[dict[str, Any]]:
        """The prompts."""
        return read(self.table).slice(0, self.prompts).to_pylist()


def on_gpus(settings: StudySettings) -> bool:
    """Whether the study is for GPUs, as far as that is known before there is a cluster."""
    return settings.scaling.accelerator is not None or has_gpus()


@dataclass(frozen=True)
class Engine:
    """What generates. ``served``: by vLLM in replicas, for which it must be installed; ``by_rows``: what is answered
    together is fixed, and with it how numbers round."""

    name: str
    served: bool
    by_rows: bool


VLLM = Engine("vllm", served=True, by_rows=False)
TRANSFORMERS = Engine("transformers", served=False, by_rows=True)


def engine_of(settings: StudySettings) -> Engine:
    """``auto`` resolved: vLLM where it is installed."""
    engine = VLLM if settings.generation.is_served(available()) else TRANSFORMERS
    if engine.served and not available():
        raise InputError(f"generation.engine: {missing(on_gpus(settings))}")
    return engine


def generate(context: Context, jobs: Iterable[Job]) -> None:
    """Run the jobs whose responses are not there yet."""
    jobs = list(jobs)
    engine = engine_of(context.settings)

    def make(missing: list[Job]) -> str:
        if not missing:
            return "0 models generated"
        begun = (_by_vllm if engine.served else _by_transformers)(context, missing)
        speed = sum(map(_tokens, missing)) / (time.monotonic() - begun)
        return f"{len(missing)} models generated, {speed:,.0f} tokens/s"

    ensure(context, STAGE, f"{len(jobs)} models, {engine.name}", jobs, make)


def _tokens(job: Job) -> int:
    """How many a job's responses have."""
    return sum(map(len, column(GENERATIONS.read(job.folder), "tokens")))


def repeatable(context: Context) -> bool:
    """Whether the same prompts, weights and seed give the same tokens whatever else is generated."""
    fixed = engine_of(context.settings).by_rows or not context.workers.gpus
    return context.settings.generation.batch_invariant or fixed


def _by_transformers(context: Context, jobs: Sequence[Job]) -> float:
    """All jobs; when generating began."""
    settings = context.settings
    how = (settings.generation.rows, settings.training.precision, settings.model.trust_remote_code)
    begun = time.monotonic()
    map_on_workers(
        [GenerateTask(job, *how) for job in jobs],
        context.workers,
        lambda done: context.progress.update(done, len(jobs), f"{done}/{len(jobs)} models"),
        processes(context, [(job.tokens, job.model.folder) for job in jobs]),
    )
    return begun


def processes(context: Context, work: Iterable[tuple[int, Path]]) -> int | None:
    """How many processes are worth their start for so many tokens, each read or written by the model beside it.

    None: as many as there is room for; 0: this one does it.
    """
    if context.workers.gpus:
        return None
    amount = 0
    for tokens, model in work:
        amount += tokens * sum(path.stat().st_size for path in model.glob("*.safetensors"))
    worth = 1 + amount // WORTH_A_PROCESS
    return 0 if context.workers.in_process and worth == 1 else worth


@dataclass(frozen=True)
class GenerateTask:
    """One job with the transformers engine; its folder is made whole or not at all."""

    job: Job
    batch_size: int
    precision: str
    trust_remote_code: bool

    def __call__(self) -> None:
        from raydaa.generation.sample import generate
        from raydaa.training.reference import fixed_model
        from raydaa.training.tokenizer import load_tokenizer, stops_of

        job, rows = self.job, self.job.rows()
        tokenizer = load_tokenizer(job.tokenizer, self.trust_remote_code)
        model = fixed_model(str(job.model.folder), self.precision, self.trust_remote_code)
        model.config.use_cache = True
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        ids = [row["prompt_tokens"] for row in rows]
        responses = generate(model, ids, job.sampling, stops_of(job.tokenizer), pad, self.batch_size)
        keep(job, rows, responses, tokenizer)


def _by_vllm(context: Context, jobs: Sequence[Job]) -> float:
    """All jobs; when generating began, after the first replica's start."""
    from raydaa.training.tokenizer import load_tokenizer, stops_of

    settings, workers = context.settings, context.workers
    tokenizer = load_tokenizer(context.prepared.tokenizer, settings.model.trust_remote_code)
    jobs = sorted(jobs, key=lambda job: job.model.hash)  # a replica takes up each model once
    asked = [job.rows() for job in jobs]
    longest = max(
        max(len(row["prompt_tokens"]) for row in rows) + job.sampling.max_new_tokens
        for job, rows in zip(jobs, asked, strict=True)
    )
    on_gpu = workers.gpus > 0
    serving = Serving(
        model=jobs[0].model.folder,
        name="policy",
        dtype="bfloat16" if on_gpu and settings.training.precision == "bf16" else "float32",
        max_model_len=longest,
        max_num_seqs=None if settings.generation.batch_size == "auto" else settings.generation.batch_size,
        cpus=workers.cpus,
        gpus=settings.generation.gpus or workers.gpus,
        batch_invariant=settings.generation.batch_invariant and on_gpu,
        min_replicas=0,
        max_replicas=len(jobs) if on_gpu else 1,  # on CPUs a second start costs more than it brings
    )
    stops = list(stops_of(context.prepared.tokenizer))
    with served(serving, f"raydaa-{key_of(study=str(context.folder))}") as pool:
        begun, waiting = time.monotonic(), []
        for job, chosen in zip(jobs, asked, strict=True):
            ids, names = [row["prompt_tokens"] for row in chosen], [row["prompt_id"] for row in chosen]
            waiting.append((job, chosen, pool.ask(job.model.folder, job.model.hash, ids, names, job.sampling, stops)))
        for done, (job, chosen, answer) in enumerate(waiting, start=1):
            keep(job, chosen, answer(), tokenizer)
            context.progress.update(done, len(jobs), f"{done}/{len(jobs)} models")
    return begun


def keep(job: Job, rows: Sequence[dict[str, Any]], responses: Sequence[Response], tokenizer: Any) -> None:
    """Write a job's responses as one sealed folder."""
    from raydaa.training.tokenizer import stops_of

    chat, stops = ChatFormat(tokenizer), stops_of(job.tokenizer)
    records = [
        {"prompt_id": row["prompt_id"], "response": chat.answer(response.tokens, stops), **asdict(response)}
        for row, response in zip(rows, responses, strict=True)
    ]
    job.output.seal(lambda folder: GENERATIONS.write(folder, records))
