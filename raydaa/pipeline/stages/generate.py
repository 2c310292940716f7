"""The stage generate: responses of many models to the study's prompts, by vLLM or in process."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raydaa.data.chat import ChatFormat
from raydaa.generation.pool import served
from raydaa.generation.sample import Response
from raydaa.generation.serving import Serving
from raydaa.pipeline.contest import contest
from raydaa.pipeline.context import Context
from raydaa.pipeline.prepared import prepared_data
from raydaa.pipeline.responses import GenerationWork, engine_of, processes
from raydaa.pipeline.stage import Batch, OutputStage
from raydaa.store.artifacts import key_of
from raydaa.store.tables import GENERATIONS, column
from raydaa.training.workers import map_on_workers


def _batches(context: Context) -> Iterator[Batch[GenerationWork]]:
    work = context.once(contest).generations
    yield Batch(f"{len(work)} models, {engine_of(context.settings).name}", work)


def _make(context: Context, missing: Sequence[GenerationWork]) -> str:
    by_engine = _by_vllm if engine_of(context.settings).served else _by_transformers
    began = by_engine(context, missing)
    tokens = sum(len(ids) for work in missing for ids in column(GENERATIONS.read(work.folder), "tokens"))
    return f"{len(missing)} models generated, {tokens / (time.monotonic() - began):,.0f} tokens/s"


def _by_transformers(context: Context, missing: Sequence[GenerationWork]) -> float:
    """All responses; when generating began."""
    settings = context.settings
    how = (settings.generation.rows, settings.training.precision, settings.model.trust_remote_code)
    began = time.monotonic()
    map_on_workers(
        [GenerateTask(work, *how) for work in missing],
        context.workers,
        lambda done: context.progress.update(done, len(missing), f"{done}/{len(missing)} models"),
        processes(context, [(work.tokens, work.model.folder) for work in missing]),
    )
    return began


@dataclass(frozen=True)
class GenerateTask:
    """One model's responses by the transformers engine; their folder is made whole or not at all."""

    work: GenerationWork
    batch_size: int
    precision: str
    trust_remote_code: bool

    def __call__(self) -> None:
        from raydaa.generation.sample import generate
        from raydaa.training.reference import fixed_model
        from raydaa.training.tokenizer import load_tokenizer, stops_of

        work = self.work
        rows = self.work.rows()
        tokenizer = load_tokenizer(work.tokenizer, self.trust_remote_code)
        model = fixed_model(str(work.model.folder), self.precision, self.trust_remote_code)
        model.config.use_cache = True
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        ids = [row["prompt_tokens"] for row in rows]
        responses = generate(model, ids, work.sampling, stops_of(work.tokenizer), pad, self.batch_size)
        _seal(work, rows, responses, tokenizer)


def _by_vllm(context: Context, missing: Sequence[GenerationWork]) -> float:
    """All responses; when generating began, after the first replica's start."""
    from raydaa.training.tokenizer import load_tokenizer, stops_of

    settings = context.settings
    workers = context.workers
    tokenizer = load_tokenizer(context.once(prepared_data).tokenizer, settings.model.trust_remote_code)
    missing = sorted(missing, key=lambda work: work.model.hash)  # a replica takes up each model once
    prompts = [work.rows() for work in missing]
    longest = max(
        max(len(row["prompt_tokens"]) for row in rows) + work.sampling.max_new_tokens
        for work, rows in zip(missing, prompts, strict=True)
    )
    on_gpu = workers.gpus > 0
    serving = Serving(
        model=missing[0].model.folder,
        name="policy",
        dtype="bfloat16" if on_gpu and settings.training.precision == "bf16" else "float32",
        max_model_len=longest,
        max_num_seqs=None if settings.generation.batch_size == "auto" else settings.generation.batch_size,
        cpus=workers.cpus,
        gpus=settings.generation.gpus or workers.gpus,
        batch_invariant=settings.generation.batch_invariant and on_gpu,
        min_replicas=0,
        max_replicas=len(missing) if on_gpu else 1,  # on CPUs a second start costs more than it brings
    )
    stops = list(stops_of(context.once(prepared_data).tokenizer))
    with served(serving, f"raydaa-{key_of(study=str(context.folder))}") as pool:
        began = time.monotonic()
        answers = []
        for work, rows in zip(missing, prompts, strict=True):
            ids = [row["prompt_tokens"] for row in rows]
            names = [row["prompt_id"] for row in rows]
            answers.append(pool.ask(work.model.folder, work.model.hash, ids, names, work.sampling, stops))
        for done, (work, rows, answer) in enumerate(zip(missing, prompts, answers, strict=True), start=1):
            _seal(work, rows, answer(), tokenizer)
            context.progress.update(done, len(missing), f"{done}/{len(missing)} models")
    return began


def _seal(work: GenerationWork, rows: Sequence[dict[str, Any]], responses: Sequence[Response], tokenizer: Any) -> None:
    """Write a model's responses as one sealed folder."""
    from raydaa.training.tokenizer import stops_of

    chat = ChatFormat(tokenizer)
    stops = stops_of(work.tokenizer)
    records = [
        {"prompt_id": row["prompt_id"], "response": chat.answer(response.tokens, stops), **asdict(response)}
        for row, response in zip(rows, responses, strict=True)
    ]
    work.output.seal(lambda folder: GENERATIONS.write(folder, records))


STAGE = OutputStage(
    name="generate",
    writes="responses with log-probabilities",
    depends_on="weights, prompts, sampling, engine",
    engine="Ray Serve and vLLM, or transformers",
    after=("align",),
    batches=_batches,
    make=_make,
)
