"""The pocket world: its best answer is known, and everything follows from the seed."""

import random

import pytest

from raydaa.pocket import world as pocket
from raydaa.settings.data import PocketSettings

PROMPT = "list the animals : cat red pie fox"
BEST = "sure , cat and fox ."


def test_gold_reward_is_correctness_manners_and_brevity() -> None:
    assert pocket.gold_reward(PROMPT, BEST) == 5.5
    assert pocket.gold_reward(PROMPT, "cat and fox") == 4.0
    assert pocket.gold_reward(PROMPT, "cat") == pytest.approx(4 * 2 / 3)
    assert pocket.gold_reward(PROMPT, "cat and fox and red") == pytest.approx(4 * 4 / 5)
    assert pocket.gold_reward(PROMPT, "um cat and fox") == pytest.approx(3.7)
    assert pocket.gold_reward(PROMPT, "cat and cat and fox") == pytest.approx(4 * 4 / 5)
    assert pocket.gold_reward(PROMPT, "") == 0.0


def test_no_answer_beats_the_best() -> None:
    rng = random.Random(1)
    for _ in range(500):
        prompt = pocket.draw_prompt(rng)
        best = f"sure , {' and '.join(pocket.wanted(prompt))} ."
        assert pocket.gold_reward(prompt, best) == 5.5
        assert pocket.gold_reward(prompt, pocket.draw_answer(prompt, rng)) <= 5.5


def test_same_seed_same_world() -> None:
    settings = PocketSettings(num_sft=20, num_pairs=20)
    for part in ("sft", "train", "validation", "prompts"):
        assert pocket.rows(settings, part) == pocket.rows(settings, part)
        assert pocket.rows(settings, part) != pocket.rows(PocketSettings(num_sft=20, num_pairs=20, seed=1), part)


def test_noise_is_a_setting() -> None:
    def share_right(noise: float) -> float:
        rows = pocket.rows(PocketSettings(num_pairs=1500, noise=noise), "train")
        gaps = [
            pocket.gold_reward(r["prompt"], r["chosen"]) - pocket.gold_reward(r["prompt"], r["rejected"]) for r in rows
        ]
        return sum(gap > 0 for gap in gaps) / sum(gap != 0 for gap in gaps)

    assert share_right(0.0) == 1.0
    assert share_right(0.5) > share_right(2.0) > 0.55


def test_every_word_has_an_id() -> None:
    words = pocket.vocabulary()
    assert len(words) == len(set(words))
    rng = random.Random(0)
    for _ in range(200):
        prompt = pocket.draw_prompt(rng)
        assert set(prompt.split()) | set(pocket.draw_answer(prompt, rng).split()) <= set(words)


def test_the_model_has_the_size_that_was_asked_for() -> None:
    sizes = {}
    for width in (32, 64):
        settings = PocketSettings(hidden_size=width)
        model, _ = pocket.make_model(settings)
        assert (model.config.hidden_size, model.config.head_dim) == (width, 32)
        sizes[pocket.model_key(settings)] = model.num_parameters()
    assert len(set(sizes.values())) == 2
    with pytest.raises(ValueError, match="multiple of 32"):
        PocketSettings(hidden_size=48)
