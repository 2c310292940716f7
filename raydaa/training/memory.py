"""How much memory a worker needs, from a model's shape alone: weights, gradients, optimizer, activations.

Counts what the training loop keeps between forward and backward, tensor by tensor, for decoder layers with rotary
attention and a gated MLP (Llama, Qwen, Mistral, Gemma); other architectures are near.
"""

from dataclasses import dataclass
from typing import Any

from raydaa.settings.training import LoraSettings
from raydaa.training.collectives import whole_size
from raydaa.training.lora import add_adapters
from raydaa.training.model import chunk_size

HEAD_COPIES = 3  # of one chunk's logits: themselves, their log-softmax, and its gradient


@dataclass(frozen=True)
class Shape:
    """What a configuration says of a model's size, in numbers of elements."""

    parameters: int
    trained: int  # fewer with adapters
    layer_parameters: int  # of all layers: what every token passes
    head: int  # of the output matrix
    layers: int
    hidden: int
    intermediate: int
    queries: int  # heads × size
    keys: int  # key-value heads × size
    vocabulary: int

    @staticmethod
    def of(config: Any, lora: LoraSettings | None = None) -> "Shape":
        """The shape of a transformers configuration, with ``training.lora``'s adapters if any; the model is laid out
        without memory for it."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
            if lora is not None:
                add_adapters(model, lora)
        return Shape.of_model(model)

    @staticmethod
    def of_model(model: Any) -> "Shape":
        """The same of a model as it is trained."""
        text = model.config.get_text_config()
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        total = sum(map(whole_size, model.parameters()))
        embedding, head = (m.weight for m in (model.get_input_embeddings(), model.get_output_embeddings()))
        outside = whole_size(embedding) + (0 if head is embedding else whole_size(head))
        return Shape(
            parameters=total,
            trained=sum(whole_size(p) for p in model.parameters() if p.requires_grad),
            layer_parameters=total - outside,
            head=whole_size(head),
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
            queries=text.num_attention_heads * size,
            keys=(getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * size,
            vocabulary=text.vocab_size,
        )

    @property
    def saved_per_layer(self) -> int:
        """Elements that one layer keeps of each token for its backward pass."""
        norms = 6 * self.hidden  # two residual streams; scaled and weighted input of two norms
        attention = 5 * self.queries + 4 * self.keys  # q and k plain, turned and embedded, v, and two outputs
        return norms + attention + 4 * self.intermediate  # gate, its activation, up, and their product

    def flops(self, tokens: float, scored: float, cells: float) -> float:
        """Floating-point operations to train on ``tokens``, of which the head sees ``scored``.

        ``cells`` are pairs of a query and a key that it sees. A frozen weight has no gradient of its own.
        """
        per_pass = 2 / self.forward
        return (
            per_pass * (self.layer_parameters * tokens + self.head * scored) + 12 * self.layers * self.queries * cells
        )

    def checkpoint(self, bf16: bool) -> float:
        """Bytes to go on from: weights and Adam's two moments, and beside bf16 weights DeepSpeed's float32 copy."""
        return self.parameters * (2 if bf16 else 4) + self.trained * (12 if bf16 else 8)

    @property
    def forward(self) -> float:
        """The share of `flops` that a forward pass takes."""
        return 2 / (4 + 2 * self.trained / self.parameters)


@dataclass(frozen=True)
class Layout:
    """How a run is spread and kept."""

    sharded: bool = False  # by DeepSpeed, else plain torch
    workers: int = 1
    zero_stage: int = 0
    bf16: bool = False
    gradient_checkpointing: bool = False
    cpu_offload: bool = False
    on_gpu: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes on one worker."""

    weights: float
    gradients: float
    optimizer: float
    kept: float  # for each token of a micro-batch, until its backward pass
    again: float  # for each token, while one layer is computed again
    logit: float  # for each scored token of a chunk
    chunk: int  # scored tokens

    @property
    def fixed(self) -> float:
        """What does not depend on the micro-batch."""
        return self.weights + self.gradients + self.optimizer

    def at(self, tokens: int) -> float:
        """All of it at the worst moment of a micro-batch of ``tokens``: in the head, or in a layer's second forward."""
        return self.fixed + self.kept * tokens + max(self.logit * min(self.chunk, tokens), self.again * tokens)

    def tokens(self, available: float) -> int:
        """The largest micro-batch that fits into so many bytes; 0 where not even the weights do."""
        in_head = (available - self.fixed - self.logit * self.chunk) / self.kept
        in_layer = (available - self.fixed) / (self.kept + self.again)
        return max(0, int(min(in_head, in_layer)))


def memory(shape: Shape, layout: Layout) -> Memory:
    """What a worker holds."""
    # DeepSpeed trains bf16 weights beside a float32 copy; plain torch keeps float32 and casts. Frozen ones are bf16.
    small = 2 if layout.bf16 and layout.sharded else 4
    frozen = (shape.parameters - shape.trained) * (2 if layout.bf16 else 4)
    stage = layout.zero_stage if layout.sharded else 0
    workers = layout.workers
    states = shape.trained * (8 + (4 if small == 2 else 0)) / (workers if stage >= 1 else 1)  # Adam's two, and the copy
    cast = shape.trained * 2 if layout.bf16 and not layout.sharded else 0
    width = 2 if layout.bf16 else 4
    saved, again = (
        (shape.hidden, shape.saved_per_layer) if layout.gradient_checkpointing else (shape.saved_per_layer, 0)
    )
    return Memory(
        weights=(shape.trained * small + frozen) / (workers if stage == 3 else 1) + cast,
        # DeepSpeed sums bf16 gradients in float32.
        gradients=shape.trained * 4 / (workers if stage >= 2 else 1),
        optimizer=0.0 if layout.cpu_offload and layout.sharded else states,
        kept=float(width * (shape.layers * saved + 4 * shape.hidden)),
        again=float(width * again),
        logit=float(shape.vocabulary * 4 * HEAD_COPIES),
        chunk=chunk_size(shape.vocabulary, layout.on_gpu),
    )
