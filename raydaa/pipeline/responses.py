"""Responses of one model to prompts: what has to be generated, and by which engine."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydaa.accelerators import has_gpus
from raydaa.errors import InputError
from raydaa.generation.sample import Sampling
from raydaa.generation.serving import available, missing
from raydaa.pipeline.context import Context
from raydaa.pipeline.named_models import ModelRef
from raydaa.settings.study import StudySettings
from raydaa.store.output import Output
from raydaa.store.tables import read

# Tokens times bytes of weights: what a process on a CPU generates while another one does its imports.
WORTH_A_PROCESS = 20_000_000_000


@dataclass(frozen=True)
class GenerationWork:
    """Responses of one model to the first ``prompts`` prompts of a table."""

    model: ModelRef
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


@dataclass(frozen=True)
class Engine:
    """What generates. ``served``: by vLLM in replicas, for which it must be installed; ``by_rows``: what is answered
    together is fixed, and with it how numbers round."""

    name: str
    served: bool
    by_rows: bool


VLLM = Engine("vllm", served=True, by_rows=False)
TRANSFORMERS = Engine("transformers", served=False, by_rows=True)


def on_gpus(settings: StudySettings) -> bool:
    """Whether the study is for GPUs, as far as that is known before there is a cluster."""
    return settings.scaling.accelerator is not None or has_gpus()


def engine_of(settings: StudySettings) -> Engine:
    """``auto`` resolved: vLLM where it is installed."""
    engine = VLLM if settings.generation.is_served(available()) else TRANSFORMERS
    if engine.served and not available():
        raise InputError(f"generation.engine: {missing(on_gpus(settings))}")
    return engine


def repeatable(context: Context) -> bool:
    """Whether the same prompts, weights and seed give the same tokens whatever else is generated."""
    fixed = engine_of(context.settings).by_rows or not context.workers.gpus
    return context.settings.generation.batch_invariant or fixed


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
