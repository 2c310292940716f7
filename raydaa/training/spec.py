"""What one training run is, as plain values that travel to a worker and lie beside its results."""

from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any

from raydaa.data.packing import num_steps, subset
from raydaa.store.artifacts import key_of


def identity(default: Any = MISSING, default_factory: Any = MISSING) -> Any:
    """A field that a run's result depends on."""
    return field(default=default, default_factory=default_factory, metadata={"identity": True})


def timing(default: Any = MISSING) -> Any:
    """A field that changes nothing but how long a run takes, what it needs, and when it is looked at or saved."""
    return field(default=default, metadata={"identity": False})


def place(default: Any = MISSING) -> Any:
    """A path: what lies there has an identity of its own, which `RunSpec.key` is given."""
    return field(default=default, metadata={"identity": False})


@dataclass(frozen=True)
class RunSpec:
    """One SFT or alignment run. Paths are absolute; ``method`` None means SFT on an example table."""

    start: str = place()  # folder of the starting weights
    train: str = place()  # Parquet of examples (SFT) or pairs
    learning_rate: float = identity()
    batch_size: int = identity()
    epochs: float = identity()
    warmup_ratio: float = identity()
    max_grad_norm: float = identity()
    adam_betas: tuple[float, float] = identity()
    weight_decay: float = identity()
    precision: str = identity()
    tokens_per_microbatch: int = timing()
    seed: int = identity()
    engine: str = identity()  # in bf16 alone: see `key`
    zero_stage: int = timing()
    checkpoint_every: int | None = timing()  # steps; None: by time
    validations: int = timing()
    fraction: float = identity(1.0)
    validation: str | None = place(None)
    reference: str | None = place(None)  # folder with validation.parquet and, for methods that need it, train.parquet
    mismatched: str | None = place(None)  # folder with both for prompts with the next pair's responses
    method: str | None = identity(None)
    code: str | None = identity(None)  # identity of the code of a method that is not built in
    parameters: dict[str, Any] = identity(default_factory=dict)
    sft_weight: float = identity(0.0)
    align_weight: float = identity(1.0)
    rungs: tuple[float, ...] = timing(())  # shares of the run at which it can be compared with others
    trust_remote_code: bool = identity(False)  # it may be another model that the same weights are put into
    tokenizer: str | None = place(None)  # folder of what is handed over with the weights; None: the start's own
    attention: str = timing("auto")
    gradient_checkpointing: bool = timing(False)
    lora: dict[str, Any] | None = identity(None)  # rank, alpha, targets
    cpu_offload: bool = timing(False)
    checkpoint_minutes: float = timing(5.0)
    head_chunk: int | None = timing(None)  # scored tokens whose logits exist at a time; None: by the vocabulary's size
    halved: bool = timing(False)  # whether the token budget was halved after an out-of-memory error

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> "RunSpec":
        """Back from `to_json`."""
        return RunSpec(
            **{
                **value,
                "adam_betas": tuple(value["adam_betas"]),
                "rungs": tuple(value["rungs"]),
            }
        )

    def with_half_the_tokens(self) -> "RunSpec":
        """The same run in smaller micro-batches."""
        return replace(self, tokens_per_microbatch=max(1, self.tokens_per_microbatch // 2), halved=True)

    @property
    def out_of_memory(self) -> str:
        """Why a run that was out of memory twice has failed."""
        return f"out of memory, also with {self.tokens_per_microbatch} tokens per micro-batch"

    @property
    def in_half(self) -> bool:
        """Whether weights lie in bf16: DeepSpeed's do, beside a float32 copy, and frozen ones. Plain torch trains
        float32 and casts."""
        return self.precision == "bf16" and (self.engine == "deepspeed" or self.lora is not None)

    def steps(self, table_size: int) -> int:
        """Optimizer steps of the run over a table of so many rows."""
        return num_steps(len(subset(table_size, self.fraction)), self.batch_size, self.epochs)

    def key(self, start: str, data: str) -> str:
        """Identity of the run's result, given the identities of its starting weights and its data.

        Every field is in it but those that say otherwise. Engines differ in bf16: DeepSpeed trains bf16 weights
        beside a float32 copy, plain torch float32 weights, cast.
        """
        values = {known.name: getattr(self, known.name) for known in fields(self) if known.metadata["identity"]}
        if self.precision != "bf16":
            del values["engine"]
        return key_of(start=start, data=data, **values)
