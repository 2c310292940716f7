"""The study's tokenizer: the base model's, with the chat template that the study speaks and the ids that end a turn."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydaa.compat.imports import quiet_transformers
from raydaa.data.chat import turn_ends
from raydaa.data.template import with_template
from raydaa.errors import InputError, RaydaaError, first_line
from raydaa.store.artifacts import file_hash, key_of, make_folder, read_json, tokenizer_hash

if TYPE_CHECKING:  # training needs no settings, nor the library that checks them
    from raydaa.settings.data import ChatTemplateSettings

logger = logging.getLogger(__name__)

GENERATION = "generation_config.json"
VERSION = 2  # of the folder's content; raise it when the same input gives another


class TokenizerError(RaydaaError, ValueError):
    """A model folder without a tokenizer that can be used; one line."""


def load_tokenizer(source: str | Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a folder or hub id."""
    quiet_transformers()  # before the import that would bring what it hides
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise TokenizerError(f"{source}: the tokenizer can't be loaded: {first_line(error)}") from None


def study_tokenizer(base: Path, settings: "ChatTemplateSettings", cache: Path, trust_remote_code: bool = False) -> Path:
    """A folder with the tokenizer of ``base`` as the study uses it, and the generation config of what is handed over.

    InputError or TokenizerError where there is none to be had.
    """
    template = _template_text(settings)
    known = base / GENERATION
    key = key_of(
        version=VERSION,
        tokenizer=tokenizer_hash(base),
        generation=file_hash(known) if known.is_file() else None,
        config=(read_json(base / "config.json") or {}).get("eos_token_id"),
        template=template,
        arguments=settings.arguments,
    )
    folder = cache / f"tokenizer-{key}"

    def fill(temporary: Path) -> None:
        tokenizer = load_tokenizer(base, trust_remote_code)
        try:
            with_template(tokenizer, template, settings.arguments)
        except ValueError as error:
            raise TokenizerError(f"{base}: {error}") from None
        tokenizer.save_pretrained(temporary)
        config = mended(generation_config(base))
        config.eos_token_id = list(turn_ends(tokenizer, config.eos_token_id))
        config.save_pretrained(temporary)

    make_folder(folder, fill)
    return folder


def _template_text(settings: "ChatTemplateSettings") -> str | None:
    if settings.file is None:
        return None
    try:
        return Path(settings.file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"data.chat_template.file: {settings.file}: can't be read: {first_line(error)}") from None


def generation_config(folder: Path) -> Any:
    """The generation config of a model folder; where it has none, what its config says of special tokens."""
    from transformers import GenerationConfig

    if (folder / GENERATION).is_file():
        return GenerationConfig.from_pretrained(folder)
    config = read_json(folder / "config.json") or {}
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return GenerationConfig(**{name: config[name] for name in names if config.get(name) is not None})


def mended(config: Any) -> Any:
    """A generation config that transformers will save: many published ones name a temperature without sampling."""
    from transformers import GenerationConfig

    try:
        config.validate(strict=True)
        return config
    except ValueError as error:
        wrong = first_line(error)
    config.do_sample = True
    try:
        config.validate(strict=True)
        remedy = "do_sample is set"
    except ValueError:
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        config = GenerationConfig(**{name: getattr(config, name) for name in names})
        remedy = "only its special tokens are kept"
    logger.warning("generation_config.json can't be saved as it is (%s): %s in what is handed over", wrong, remedy)
    return config


def stops_of(tokenizer: Path) -> tuple[int, ...]:
    """Every id that ends a turn, of a folder made by `study_tokenizer`."""
    return tuple(read_json(tokenizer / GENERATION)["eos_token_id"])
