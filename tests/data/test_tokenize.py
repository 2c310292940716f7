"""Exact ids: BOS once, EOS once, prompt apart from response, and the same prompt for training and serving."""

from typing import Any

import pytest

from raydaa.data.sources import BadRowError, PreferencePair
from raydaa.data.tokenize import DEFAULT_TEMPLATE, Encoder
from tests.models import make_tokenizer

TEXTS = ["Hello there, how are you?", "User: Assistant: fine thanks.", "<|im_start|> and <|im_end|>"] * 4
TALK = [
    {"role": "user", "content": "Hello there"},
    {"role": "assistant", "content": "fine"},
    {"role": "user", "content": "how are you?"},
    {"role": "assistant", "content": "thanks."},
]
# Templates as they are met: BOS of their own, turns ended by EOS or by another token, text after the end.
TEMPLATES = {
    "default": DEFAULT_TEMPLATE,
    "own bos": "{{ bos_token }}" + DEFAULT_TEMPLATE,
    "other end": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "eos only": "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}",
}


@pytest.fixture(params=TEMPLATES)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    made = make_tokenizer(TEXTS, 320)
    made.chat_template = TEMPLATES[request.param]
    return made


def test_pair(tokenizer: Any) -> None:
    ids = Encoder(tokenizer, 200).pair(PreferencePair(TALK[:3], "thanks.", "fine"))
    assert ids.prompt.count(1) == 1
    assert ids.prompt[0] == 1
    for response, text in ((ids.chosen, "thanks."), (ids.rejected, "fine")):
        assert response.count(2) == 1
        assert response[-1] == 2
        assert tokenizer.decode(response[:-1]) == text


def test_the_template_alone_gives_the_prompts_ids(tokenizer: Any) -> None:
    """As a server renders it, that knows nothing of how the model was trained."""
    prompt = Encoder(tokenizer, 200).prompt(TALK[:3])
    served = tokenizer.apply_chat_template(TALK[:3], add_generation_prompt=True, return_dict=False)
    assert list(served) == prompt


def test_every_assistant_turn_is_scored_and_nothing_else(tokenizer: Any) -> None:
    example = Encoder(tokenizer, 200).example(TALK)
    scored = [token for token, is_scored in zip(example.tokens, example.scored, strict=True) if is_scored]
    assert tokenizer.decode(scored, skip_special_tokens=False) == "fine<eos>thanks.<eos>"
    assert example.tokens.count(1) == 1
    assert not example.scored[0]


def test_a_conversation_begins_with_the_prompt_that_is_served(tokenizer: Any) -> None:
    encoder = Encoder(tokenizer, 200)
    prompt = encoder.prompt(TALK[:1])
    assert encoder.example(TALK).tokens[: len(prompt)] == prompt


def test_truncation_keeps_the_start() -> None:
    tokenizer = make_tokenizer(TEXTS, 320)
    encoder = Encoder(tokenizer, 200)
    whole = encoder.pair(PreferencePair(TALK[:1], "thanks. " * 5, "fine"))
    short = Encoder(tokenizer, len(whole.prompt) + 4)
    cut = short.pair(PreferencePair(TALK[:1], "thanks. " * 5, "fine"))
    assert cut.chosen == whole.chosen[:4]
    assert short.notes == {"responses cut at max_length": 1}
    with pytest.raises(BadRowError, match="equals rejected after truncation"):
        short.pair(PreferencePair(TALK[:1], "thanks. " * 5, "thanks. " * 6))
    with pytest.raises(BadRowError, match="prompt longer than max_length"):
        Encoder(tokenizer, len(whole.prompt)).pair(PreferencePair(TALK[:1], "thanks", "fine"))


def test_special_tokens_inside_a_response_are_removed_and_counted() -> None:
    encoder = Encoder(make_tokenizer(TEXTS, 320), 200)
    ids = encoder.pair(PreferencePair(TALK[:1], "fine<eos> thanks<bos>", "no"))
    assert ids.chosen.count(2) == 1
    assert 1 not in ids.chosen
    assert encoder.notes == {"responses with BOS or EOS inside, removed": 1}


def test_tokenizer_without_eos_is_refused() -> None:
    tokenizer = make_tokenizer(TEXTS, 320)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no EOS token"):
        Encoder(tokenizer, 10)
