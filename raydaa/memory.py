"""How much memory a worker needs, from a model's shape alone: weights, gradients, optimizer, activations.

Counts what the training loop keeps between forward and backward, tensor by tensor, for decoder layers with rotary
attention and a gated MLP (Llama, Qwen, Mistral, Gemma); other architectures are near.
"""

from dataclasses import dataclass
from typing import Any

HEAD_COPIES = 4  # logits, their log-softmax, and the gradients of both, for one chunk


@dataclass(frozen=True)
class Shape:
    """What a configuration says of a model's size, in numbers of elements."""

    parameters: int
    head: int  # of the output matrix
    layers: int
    hidden: int
    intermediate: int
    queries: int  # heads × size
    keys: int  # key-value heads × size
    vocabulary: int

    @staticmethod
    def of(config: Any) -> "Shape":
        """The shape of a transformers configuration; the model is laid out without memory for it."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        text = config.get_text_config()
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return Shape(
            parameters=sum(p.numel() for p in model.parameters()),
            head=model.get_output_embeddings().weight.numel(),
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=getattr(text, "intermediate_size", 4 * text.hidden_size),
            queries=text.num_attention_heads * size,
            keys=getattr(text, "num_key_value_heads", text.num_attention_heads) * size,
            vocabulary=text.vocab_size,
        )

    @property
    def in_layers(self) -> int:
        """Weights that every token passes: all but embedding and head."""
        tied = self.parameters - self.head  # one matrix serves as both, or the embedding is counted out below
        embedding = self.vocabulary * self.hidden
        return tied - embedding if tied > embedding and not self._tied else tied

    @property
    def _tied(self) -> bool:
        """Whether input and output share one matrix: then a second one would not fit into the count of weights."""
        layer = self.hidden * (2 * self.queries + 2 * self.keys + 3 * self.intermediate)
        return self.parameters < self.layers * layer + 2 * self.head

    @property
    def saved_per_layer(self) -> int:
        """Elements that one layer keeps of each token for its backward pass."""
        norms = 2 * self.hidden + 4 * self.hidden  # two residual streams; scaled and weighted input of two norms
        attention = 5 * self.queries + 4 * self.keys  # q and k plain, turned and embedded, v, and two outputs
        return norms + attention + 4 * self.intermediate  # gate, its activation, up, and their product


@dataclass(frozen=True)
class Memory:
    """Bytes on one worker."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    head: float

    @property
    def total(self) -> float:
        """All of it at the worst moment."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.head


@dataclass(frozen=True)
class Layout:
    """How a run is spread and kept."""

    engine: str = "torch"
    workers: int = 1
    zero_stage: int = 0
    bf16: bool = False
    gradient_checkpointing: bool = False
    cpu_offload: bool = False
    trained_share: float = 1.0  # of the weights; less with adapters


def memory(shape: Shape, layout: Layout, tokens: int, chunk: int) -> Memory:
    """What a worker holds with ``tokens`` in a micro-batch and logits for ``chunk`` of them at a time."""
    sharded = layout.engine == "deepspeed"
    small = 2 if layout.bf16 and sharded else 4  # DeepSpeed trains in bf16; plain torch keeps float32 and casts
    stage, workers = layout.zero_stage if sharded else 0, layout.workers
    trained = shape.parameters * layout.trained_share
    states = trained * (8 + (4 if small == 2 else 0)) / (workers if stage >= 1 else 1)  # Adam's two, and a float32 copy
    kept = shape.layers * (shape.hidden if layout.gradient_checkpointing else shape.saved_per_layer)
    if layout.gradient_checkpointing:
        kept += shape.saved_per_layer  # of the layer that is computed again
    width = 2 if layout.bf16 else 4
    return Memory(
        weights=shape.parameters * small / (workers if stage == 3 else 1),
        gradients=trained * small / (workers if stage >= 2 else 1),
        optimizer=0.0 if layout.cpu_offload and sharded else states,
        activations=float(tokens * (kept + 4 * shape.hidden) * width),
        head=float(min(chunk, tokens) * shape.vocabulary * 4 * HEAD_COPIES),
    )
