"""What one training run is, as plain values that travel to a worker and lie beside its results."""

from dataclasses import dataclass, replace
from typing import Any

from raydaa.data.batches import num_steps, subset
from raydaa.settings.training import TrainingSettings
from raydaa.store.artifacts import key_of
from raydaa.store.identity import identity, identity_of, parts, place, timing
from raydaa.store.plain import from_plain, to_plain


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Parquet files and folders; paths are absolute."""

    train: str = place()  # examples (SFT) or pairs
    validation: str | None = place(None)
    reference: str | None = place(None)  # folder with validation.parquet and, for methods that need it, train.parquet
    mismatched: str | None = place(None)  # folder with both for prompts with the next pair's responses


@dataclass(frozen=True, kw_only=True)
class ObjectiveSpec:
    """A method with its parameters, and what its loss and the one-stage SFT loss weigh; ``method`` None means SFT."""

    method: str | None = identity(None)
    code: str | None = identity(None)  # identity of the code of a method that is not built in
    parameters: dict[str, Any] = identity(default_factory=dict)
    sft_weight: float = identity(0.0)
    align_weight: float = identity(1.0)


PLAIN, SHARDED = "torch", "deepspeed"  # engines


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What trains it."""

    engine: str = identity(PLAIN)  # in bf16 alone: see `Recipe.key`
    zero_stage: int = timing(0)
    cpu_offload: bool = timing(False)

    @property
    def apart(self) -> bool:
        """Whether weights are spread over the workers of a group: no GPU need hold a model whole."""
        return self.sharded and self.zero_stage == 3

    @property
    def sharded(self) -> bool:
        """Whether DeepSpeed shares out what training holds."""
        return self.engine == SHARDED


def in_half(training: TrainingSettings, placement: Placement) -> bool:
    """As `Recipe.in_half`."""
    return training.precision == "bf16" and (placement.sharded or training.lora is not None)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All of a run but what it starts from and is trained on."""

    training: TrainingSettings = parts()
    objective: ObjectiveSpec = parts()
    placement: Placement = parts()
    learning_rate: float = identity()
    seed: int = identity()
    fraction: float = identity(1.0)  # of the rows
    rungs: tuple[float, ...] = timing(())  # shares of the run at which it can be compared with others
    trust_remote_code: bool = identity(False)  # it may be another model that the same weights are put into
    head_chunk: int | None = timing(None)  # scored tokens whose logits exist at a time; None: by the vocabulary's size
    halved: bool = timing(False)  # whether the token budget was halved after an out-of-memory error

    @property
    def tokens(self) -> int:
        """Of a micro-batch, at most."""
        assert self.training.tokens_per_microbatch != "auto", "whoever makes a run has decided it"
        return self.training.tokens_per_microbatch

    def with_tokens(self, tokens: int) -> "Recipe":
        """The same run in micro-batches of so many tokens at most."""
        return replace(self, training=replace(self.training, tokens_per_microbatch=tokens))

    def with_half_the_tokens(self) -> "Recipe":
        """The same run in smaller micro-batches."""
        return replace(self.with_tokens(max(1, self.tokens // 2)), halved=True)

    @property
    def out_of_memory(self) -> str:
        """Why a run that was out of memory twice has failed."""
        return f"out of memory, also with {self.tokens} tokens per micro-batch"

    @property
    def in_half(self) -> bool:
        """Whether weights lie in bf16: DeepSpeed's do, beside a float32 copy, and frozen ones. Plain torch trains
        float32 and casts."""
        return in_half(self.training, self.placement)

    def steps(self, table_size: int) -> int:
        """Optimizer steps of the run over a table of so many rows."""
        rows = len(subset(table_size, self.fraction))
        return num_steps(rows, self.training.batch_size, self.training.epochs)

    def key(self, start: str, data: str) -> str:
        """Identity of the run's result, given the identities of its starting weights and its data."""
        return key_of(**self.depends_on(start, data))

    def depends_on(self, start: str, data: str) -> dict[str, Any]:
        """All that the run's result depends on.

        Every field is in it but those that say otherwise. Engines differ in bf16: DeepSpeed trains bf16 weights
        beside a float32 copy, plain torch float32 weights, cast.
        """
        values = identity_of(self)
        if self.training.precision != "bf16":
            del values["placement"]["engine"]
        return {"start": start, "data": data, **values}


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One SFT or alignment run."""

    recipe: Recipe = parts()
    data: DataSpec = parts()
    start: str = place()  # folder of the starting weights
    tokenizer: str | None = place(None)  # folder of what is handed over with the weights; None: the start's own

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return to_plain(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> "RunSpec":
        """Back from `to_json`."""
        return from_plain(RunSpec, value)

    def after_out_of_memory(self) -> "RunSpec | None":
        """How a run that was out of memory goes on: once in micro-batches of half the size, then no more."""
        return None if self.recipe.halved else replace(self, recipe=self.recipe.with_half_the_tokens())
