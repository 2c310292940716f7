"""Responses by the transformers library in this process: the engine that is always there.

Returns what the served engine returns: tokens, their raw log-probability, and whether the length limit cut them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. ``temperature`` 0 is greedy, ``top_k`` 0 means all tokens."""

    temperature: float
    top_k: int
    top_p: float
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class Response:
    """Generated tokens (the one that ends the turn included), and their summed raw log-probability in nats."""

    tokens: list[int]
    logp: float
    cut: bool


class _RawLogps:
    """Sees each step's logits before temperature and top-k, and notes the log-probability of what was then drawn.

    A step's token is known only at the next step, so one step's log-softmax is kept back; full logits of the
    whole response never are.
    """

    def __init__(self) -> None:
        self.steps: list[Tensor] = []
        self.pending: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.settle(input_ids[:, -1])
        self.pending = torch.log_softmax(scores.float(), dim=-1)
        return scores

    def settle(self, tokens: Tensor) -> None:
        """The kept-back step drew ``tokens``."""
        if self.pending is not None:
            self.steps.append(self.pending.gather(1, tokens[:, None])[:, 0])


def generate(
    model: Any, prompts: Sequence[Sequence[int]], sampling: Sampling, stops: Sequence[int], pad: int, batch_size: int
) -> list[Response]:
    """A response for every prompt (token ids), up to the first of ``stops``.

    The same arguments give the same responses on the same device.
    """
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    by_row: dict[int, Response] = {}
    torch.manual_seed(sampling.seed)
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        responses = _batch(model, [prompts[i] for i in chosen], sampling, stops, pad)
        by_row |= dict(zip(chosen, responses, strict=True))
    return [by_row[i] for i in range(len(prompts))]


def _batch(
    model: Any, prompts: list[Sequence[int]], sampling: Sampling, stops: Sequence[int], pad: int
) -> list[Response]:
    from transformers import GenerationConfig, LogitsProcessorList

    length = max(map(len, prompts))
    ids = torch.tensor([[pad] * (length - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    greedy = sampling.temperature == 0
    drawn = {} if greedy else {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=not greedy,
        eos_token_id=list(stops),
        pad_token_id=pad,
        **drawn,
    )
    # The checkpoint's own defaults (a repetition penalty, say) would fill what is unset, and change raw logits.
    model.generation_config = GenerationConfig()
    raw = _RawLogps()
    with torch.no_grad():
        output = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=LogitsProcessorList([raw])
        )
    raw.settle(output[:, -1])
    logps = torch.stack(raw.steps, dim=1).double().cpu()
    responses = []
    for row, tokens in enumerate(output[:, length:].tolist()):
        end = next((index for index, token in enumerate(tokens) if token in stops), None)
        size = len(tokens) if end is None else end + 1
        responses.append(Response(tokens[:size], float(logps[row, :size].sum()), end is None))
    return responses
