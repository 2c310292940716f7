"""A reward model as the judge."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from raydaa.judging.reward_model import load_reward_model, reward_scores
from raydaa.pocket import world as pocket
from raydaa.settings.data import PocketSettings
from raydaa.training.tokenizer import load_tokenizer

PROMPTS = [[{"role": "user", "content": f"list the animals : cat {'fox ' * (i % 3)}"}] for i in range(20)]
RESPONSES = ["sure , cat and fox ." + " well" * (i % 4) for i in range(20)]


@pytest.fixture
def reward_model(tmp_path: Path, pocket_model: Path) -> Path:
    return write_reward_model(tmp_path / "reward-model", pocket_model)


def write_reward_model(folder: Path, tokenizer_folder: Path) -> Path:
    """A random Llama that gives one score."""
    torch.manual_seed(0)
    sizes = {
        **pocket.architecture(PocketSettings()),
        "vocab_size": len(pocket.vocabulary()),
        "num_labels": 1,
        "pad_token_id": 0,
    }
    LlamaForSequenceClassification(LlamaConfig(**sizes)).save_pretrained(folder)
    load_tokenizer(tokenizer_folder).save_pretrained(folder)
    return folder


def test_scores_are_those_of_one_sequence_alone(reward_model: Path) -> None:
    model, tokenizer = load_reward_model(reward_model, torch.float32, False)
    scores = reward_scores(model, tokenizer, PROMPTS, RESPONSES)
    for prompt, response, score in zip(PROMPTS, RESPONSES, scores, strict=True):
        text = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": response}], tokenize=False)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False).input_ids])
        hidden = model.model(ids).last_hidden_state[0, -1]
        assert score == pytest.approx((model.score.weight[0] @ hidden).item(), abs=1e-5)
    assert len(set(scores)) > 3
    assert reward_scores(model, tokenizer, PROMPTS[3:4], RESPONSES[3:4]) == pytest.approx(scores[3:4], abs=1e-5)


def test_without_a_padding_token_the_scores_are_the_same(reward_model: Path) -> None:
    model, tokenizer = load_reward_model(reward_model, torch.float32, False)
    batched = reward_scores(model, tokenizer, PROMPTS, RESPONSES)
    model.config.pad_token_id = None
    assert reward_scores(model, tokenizer, PROMPTS, RESPONSES) == pytest.approx(batched, abs=1e-5)


def test_without_a_template_prompt_and_response_are_a_pair(reward_model: Path) -> None:
    model, tokenizer = load_reward_model(reward_model, torch.float32, False)
    tokenizer.chat_template = None
    scores = reward_scores(model, tokenizer, PROMPTS[:2], ["cat", "fox"])
    ids = torch.tensor([tokenizer(PROMPTS[0][0]["content"], "cat").input_ids])
    hidden = model.model(ids).last_hidden_state[0, -1]
    assert scores[0] == pytest.approx((model.score.weight[0] @ hidden).item(), abs=1e-5)


def test_a_language_model_is_no_reward_model(pocket_model: Path) -> None:
    with pytest.raises(ValueError, match="is no reward model: LlamaForCausalLM gives no single score"):
        load_reward_model(pocket_model, torch.float32, False)
