"""Chat templates as they are published, each with a small tokenizer that has the tokens which it names."""

import copy
import re
from functools import cache
from pathlib import Path
from typing import Any

from tests.models import make_tokenizer

TEXTS = ["Hello there, how are you?", "User: Assistant: fine thanks.", "<|im_start|> and <|im_end|>"] * 4
# Whose end of text is another token than the one that ends a turn, or is named by nobody in the template.
ENDS = {"gptoss": "<|return|>", "phi3": "<|endoftext|>", "glm": "<|endoftext|>", "qwen": "<|im_end|>"}
NAMED = re.compile(r"<\|[\w/ ]+\|>|<｜[^<>｜]+｜>|<(?:start|end)_of_\w+>|</?think>|<\|\w+>|<\w+\|>|\[gMASK\]|<sop>")


@cache
def published() -> dict[str, str]:
    """Name and text of every template that TRL ships."""
    import trl

    folder = Path(trl.__file__).parent / "chat_templates"
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}


@cache
def _plain() -> Any:
    return make_tokenizer(TEXTS, 320)


def tokenizer_for(name: str, template: str) -> Any:
    """A byte-level tokenizer with the template's own tokens as tokens."""
    made = copy.deepcopy(_plain())
    eos = next((end for kind, end in ENDS.items() if name.startswith(kind)), "<eos>")
    made.add_tokens(sorted(set(NAMED.findall(template))), special_tokens=True)
    made.add_special_tokens({"eos_token": eos})
    made.chat_template = template
    return made
