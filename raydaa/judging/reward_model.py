"""A reward model as the judge: a local sequence classifier that scores one response at a time."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from raydaa.store.artifacts import read_json

BATCH = 16


def reward_scores(
    model: Any, tokenizer: Any, prompts: Sequence[list[dict[str, str]]], responses: Sequence[str]
) -> list[float]:
    """The model's score of each response to its prompt (chat messages).

    With the tokenizer's chat template where it has one, else as a pair of texts. Sequences of one length share a
    batch: nothing is padded, so that a score does not depend on what else is scored.
    """
    encoded = [_ids(tokenizer, prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    alike: dict[int, list[int]] = defaultdict(list)
    for place, ids in enumerate(encoded):
        alike[len(ids)].append(place)
    size = 1 if model.config.pad_token_id is None else BATCH  # classifiers over decoders look for the last token by it
    scores = [0.0] * len(encoded)
    for places in alike.values():
        for first in range(0, len(places), size):
            chosen = places[first : first + size]
            ids = torch.tensor([encoded[place] for place in chosen], device=model.device)
            with torch.no_grad():
                found = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 0]
            for place, score in zip(chosen, found.float().tolist(), strict=True):
                scores[place] = score
    return scores


def check_reward_model(folder: Path) -> None:
    """ValueError, in one line, where the model does not give one score."""
    config = read_json(folder / "config.json") or {}
    named = (config.get("architectures") or ["it"])[0]
    if len(config.get("id2label", (0, 1))) != 1 or not named.endswith("ForSequenceClassification"):
        raise ValueError(f"{folder}: is no reward model: {named} gives no single score")


def load_reward_model(folder: Path, dtype: torch.dtype, trust_remote_code: bool) -> tuple[Any, Any]:
    """Model and tokenizer; ValueError as by `check_reward_model`."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    check_reward_model(folder)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True
    )
    return model.eval(), AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


def _ids(tokenizer: Any, prompt: list[dict[str, str]], response: str) -> list[int]:
    if tokenizer.chat_template:
        messages = [*prompt, {"role": "assistant", "content": response}]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        return list(tokenizer(text, add_special_tokens=False, truncation=True).input_ids)  # the template says BOS
    question = "\n\n".join(message["content"] for message in prompt)
    return list(tokenizer(question, response, truncation=True).input_ids)
