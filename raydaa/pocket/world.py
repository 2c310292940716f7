"""The pocket world: an alignment task with a known best answer, small enough for a laptop.

A prompt names a category and lists words ("list the animals : cat red pie fox"); the best answer repeats
the words of that category, politely, and nothing else ("sure , cat and fox ."). People in this world answer
with omissions, wrong words, missing manners and filler words; the gold reward is a pure function of prompt
and response, and preference pairs are drawn by it (Bradley–Terry). Everything follows from a seed.
"""

import math
import random
from collections import Counter
from typing import Any

from raydaa.settings.data import HEAD, PocketSettings
from raydaa.store.artifacts import key_of

CATEGORIES = {
    "animals": "cat fox dog owl hen pig cow bee ant rat eel yak".split(),
    "foods": "pie jam rice soup cake bean corn plum fig nut ham leek".split(),
    "colours": "red blue green pink gold grey black white brown teal lime rose".split(),
    "tools": "saw axe nail drill file rope bolt clamp spade rake wedge vice".split(),
}
FILLERS = "um well like so maybe really".split()
SPECIALS = ["<pad>", "<bos>", "<eos>", "<unk>"]
WORDS = ["list", "the", ":", "=>", "sure", ",", ".", "and", "none"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %} {{ message['content'] }}"
    "{% if message['role'] == 'user' %} =>{% else %} {{ eos_token }}{% endif %}{% endfor %}"
)
ARCHITECTURE = {"num_hidden_layers": 3, "max_position_embeddings": 256, "tie_word_embeddings": False}
STREAMS = {"sft": 1, "train": 2, "validation": 3, "prompts": 4}


def vocabulary() -> list[str]:
    """Every word of the world, special tokens first; a word's index is its id."""
    return [*SPECIALS, *WORDS, *FILLERS, *CATEGORIES, *(w for words in CATEGORIES.values() for w in words)]


def draw_prompt(rng: random.Random) -> str:
    """A category and five to eight words, some of them its own."""
    category = rng.choice(sorted(CATEGORIES))
    own = rng.sample(CATEGORIES[category], rng.randint(2, 4))
    others = [word for name, words in sorted(CATEGORIES.items()) if name != category for word in words]
    words = own + rng.sample(others, rng.randint(3, 4))
    rng.shuffle(words)
    return f"list the {category} : {' '.join(words)}"


def wanted(prompt: str) -> list[str]:
    """The words a correct answer names, in the prompt's order."""
    head, _, listed = prompt.partition(" : ")
    own = CATEGORIES.get(head.split()[-1], []) if head else []
    return [word for word in listed.split() if word in own]


def draw_answer(prompt: str, rng: random.Random) -> str:
    """How people answer here: each right word with 85 %, each wrong one with 12 %, half of them politely."""
    right = wanted(prompt)
    listed = prompt.partition(" : ")[2].split()
    named = [word for word in listed if rng.random() < (0.85 if word in right else 0.12)]
    words = ["sure", ","] if rng.random() < 0.5 else []
    for index, word in enumerate(named or ["none"]):
        words += ["and"] * (index > 0)
        words += [rng.choice(FILLERS)] * (rng.random() < 0.25)
        words.append(word)
    words += ["."] * (rng.random() < 0.6)
    return " ".join(words)


def gold_reward(prompt: str, response: str) -> float:
    """Correctness (F1 of the named words, repeats count as wrong), manners, and brevity.

    A pure function: 4·F1 + 1 for opening with "sure ," + ½ for one full stop at the end − 0.3 for each word
    that a correct answer does not need.
    """
    words = response.split()
    right = wanted(prompt)
    nouns = {word for words_of in CATEGORIES.values() for word in words_of}
    named = [word for word in words if word in nouns]
    hits = len(set(named) & set(right))
    f1 = 2 * hits / (len(named) + len(right)) if named or right else 1.0
    polite = words[:2] == ["sure", ","]
    closed = words[-1:] == ["."] and words.count(".") == 1
    needed = 2 * polite + closed + len(named) + min(words.count("and"), max(len(named) - 1, 0))
    return 4 * f1 + polite + 0.5 * closed - 0.3 * max(len(words) - needed, 0)


def rows(settings: PocketSettings, part: str) -> list[dict[str, Any]]:
    """The rows of one part (``sft``, ``train``, ``validation``, ``prompts``) of the world with these settings."""
    rng = random.Random(settings.seed * 16 + STREAMS[part])
    if part == "sft":
        prompts = [draw_prompt(rng) for _ in range(settings.num_sft)]
        return [{"prompt": prompt, "response": draw_answer(prompt, rng)} for prompt in prompts]
    if part == "prompts":
        return [{"prompt": prompt} for prompt in _distinct_prompts(rng, settings.num_prompts)]
    count = settings.num_pairs if part == "train" else settings.num_validation
    return [_draw_pair(settings.noise, rng) for _ in range(count)]


def _distinct_prompts(rng: random.Random, count: int) -> list[str]:
    counts: Counter[str] = Counter()
    while len(counts) < count:
        counts[draw_prompt(rng)] += 1
    return list(counts)


def _draw_pair(noise: float, rng: random.Random) -> dict[str, Any]:
    """Two different answers; the better one is chosen with probability σ(Δ gold reward / noise)."""
    prompt = draw_prompt(rng)
    first = draw_answer(prompt, rng)
    second = draw_answer(prompt, rng)
    while second == first:
        second = draw_answer(prompt, rng)
    gap = gold_reward(prompt, first) - gold_reward(prompt, second)
    probability = float(gap > 0) if noise == 0 else 0.5 * (1 + math.tanh(gap / noise / 2))
    if rng.random() >= probability:
        first, second = second, first
    return {"prompt": prompt, "chosen": first, "rejected": second}


def architecture(settings: PocketSettings) -> dict[str, Any]:
    """The model's sizes, as Transformers name them."""
    width = settings.hidden_size
    return {
        **ARCHITECTURE,
        "hidden_size": width,
        "intermediate_size": 8 * width // 3,
        "num_attention_heads": width // HEAD,
    }


def model_key(settings: PocketSettings) -> str:
    """Identity of what `make_model` makes."""
    return key_of(seed=settings.seed, words=vocabulary(), template=TEMPLATE, architecture=architecture(settings))


def make_model(settings: PocketSettings) -> tuple[Any, Any]:
    """A freshly initialised Llama, of 0.35M parameters by default, and the world's tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = vocabulary()
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = TEMPLATE
    sizes = architecture(settings)
    config = LlamaConfig(vocab_size=len(words), bos_token_id=1, eos_token_id=2, pad_token_id=0, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        return LlamaForCausalLM(config), tokenizer
