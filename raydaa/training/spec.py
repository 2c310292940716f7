"""What one training run is, as plain values that travel to a worker and lie beside its results."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from raydaa.artifacts import key_of
from raydaa.data.packing import num_steps, subset


@dataclass(frozen=True)
class RunSpec:
    """One SFT or alignment run. Paths are absolute; ``method`` None means SFT on an example table."""

    start: str  # folder of the starting weights
    train: str  # Parquet of examples (SFT) or pairs
    learning_rate: float
    batch_size: int
    epochs: float
    warmup_ratio: float
    max_grad_norm: float
    adam_betas: tuple[float, float]
    weight_decay: float
    precision: str
    tokens_per_microbatch: int
    seed: int
    engine: str
    zero_stage: int
    checkpoint_every: int | None  # steps; None: by time
    validations: int
    fraction: float = 1.0
    validation: str | None = None
    reference: str | None = None  # folder with validation.parquet and, for methods that need it, train.parquet
    mismatched: str | None = None  # folder with both for prompts with the next pair's responses
    method: str | None = None
    code: str | None = None  # identity of the code of a method that is not built in
    parameters: dict[str, Any] = field(default_factory=dict)
    sft_weight: float = 0.0
    align_weight: float = 1.0
    rungs: tuple[float, ...] = ()  # shares of the run at which it can be compared with others
    trust_remote_code: bool = False
    tokenizer: str | None = None  # folder of what is handed over with the weights; None: the start's own
    attention: str = "auto"
    gradient_checkpointing: bool = False
    lora: dict[str, Any] | None = None  # rank, alpha, targets
    cpu_offload: bool = False
    checkpoint_minutes: float = 5.0
    head_chunk: int | None = None  # scored tokens whose logits exist at a time; None: by the vocabulary's size
    halved: bool = False  # whether the token budget was halved after an out-of-memory error

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

        Paths, rungs, checkpoint spacing, micro-batching and the engine change nothing but time, so they
        stay out of it.
        """
        names = (
            "learning_rate batch_size epochs warmup_ratio max_grad_norm adam_betas weight_decay precision seed "
            "fraction lora method code parameters sft_weight align_weight"
        ).split()
        return key_of(start=start, data=data, **{name: getattr(self, name) for name in names})
