"""A reward model as the judge: a local sequence classifier that scores one response at a time."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raydaa.compat.imports import quiet_transformers
from raydaa.errors import InputError
from raydaa.evaluation.racing import Race
from raydaa.judging import judge
from raydaa.judging.judge import Comparisons, JudgeError, JudgeResources, Rows
from raydaa.judging.rule import compared
from raydaa.settings.judge import RewardModelJudge
from raydaa.store.artifacts import read_json
from raydaa.store.output import Output
from raydaa.store.tables import REWARDS, column
from raydaa.training.device import device_of_worker
from raydaa.training.workers import map_on_workers

BATCH = 16


class Judge(judge.LocalModel, judge.Judge[RewardModelJudge]):
    """The higher reward wins; a response that was scored before is not scored again."""

    @property
    def title(self) -> str:
        return f"reward model {Path(self.settings.model).name}"

    def identity(self) -> dict[str, Any]:
        return {"reward_model": self._weights}

    def check(self, setting: str, on_gpus: bool) -> None:
        try:
            check_reward_model(self._folder)
        except ValueError as error:
            raise InputError(f"{setting}.model: {error}") from None

    def judge(self, comparisons: Comparisons, resources: JudgeResources, race: Race | None = None) -> dict[str, Rows]:
        workers = resources.workers
        prompts = [json.loads(row["messages"]) for row in comparisons.prompts]
        precision = resources.precision if workers.gpus else "fp32"
        against = ""  # no contestant's name
        outputs = {}
        tasks = []
        for name, responses in {against: comparisons.baseline, **comparisons.responses}.items():
            depends_on = {"model": self._weights, "prompts": prompts, "responses": responses, "precision": precision}
            outputs[name] = Output(resources.rewards, depends_on)
            if not outputs[name].done:
                how = (precision, resources.trust_remote_code)
                tasks.append(RewardTask(outputs[name], self._folder, prompts, responses, *how))

        def tell(done: int) -> None:
            resources.tell(done, len(tasks), f"{done}/{len(tasks)} models")

        try:
            map_on_workers(tasks, workers, tell)
        except Exception as error:  # whatever loading or running a model of the user's raises, in a task
            raise JudgeError(str(error).strip().splitlines()[-1]) from None
        rewards = {name: column(REWARDS.read(output.folder), "reward") for name, output in outputs.items()}
        rows = {}
        for name in comparisons.responses:
            rows[name] = compared(comparisons.ids, rewards[name], rewards[against])
        return rows


@dataclass(frozen=True)
class RewardTask:
    """Rewards of responses, as one sealed folder; called on a worker."""

    output: Output
    model: Path
    prompts: list[list[dict[str, str]]]
    responses: list[str]
    precision: str
    trust_remote_code: bool

    def __call__(self) -> None:
        self.output.seal(self._fill)

    def _fill(self, folder: Path) -> None:
        quiet_transformers()
        device = device_of_worker()
        dtype = torch.bfloat16 if self.precision == "bf16" and device.type == "cuda" else torch.float32
        model, tokenizer = load_reward_model(self.model, dtype, self.trust_remote_code)
        scores = reward_scores(model.to(device), tokenizer, self.prompts, self.responses)
        REWARDS.write(folder, [{"reward": score} for score in scores])


def reward_scores(
    model: Any, tokenizer: Any, prompts: Sequence[list[dict[str, str]]], responses: Sequence[str]
) -> list[float]:
    """The model's score of each response to its prompt (chat messages).

    With the tokenizer's chat template where it has one, else as a pair of texts. Sequences of one length share a
    batch: nothing is padded, so that a score does not depend on what else is scored.
    """
    encoded = [_ids(tokenizer, prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    alike: dict[int, list[int]] = defaultdict(list)
    for index, ids in enumerate(encoded):
        alike[len(ids)].append(index)
    size = 1 if model.config.pad_token_id is None else BATCH  # classifiers over decoders look for the last token by it
    scores = [0.0] * len(encoded)
    for places in alike.values():
        for first in range(0, len(places), size):
            chosen = places[first : first + size]
            batch = torch.tensor([encoded[index] for index in chosen], device=model.device)
            with torch.no_grad():
                logits = model(input_ids=batch, attention_mask=torch.ones_like(batch)).logits[:, 0]
            for index, score in zip(chosen, logits.float().tolist(), strict=True):
                scores[index] = score
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
