"""What can be known to go wrong with a model is refused while the study is prepared, before anything is trained."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from raydaa.errors import InputError, first_line
from raydaa.pipeline.named_models import base_model, models_named, sft_fraction
from raydaa.pipeline.prepared import Prepared
from raydaa.store.artifacts import file_hash, key_of, make_folder, read_json, write_json
from raydaa.store.models import local_model
from raydaa.store.tables import read
from raydaa.study import Study
from raydaa.training.lora import adapted_layers
from raydaa.training.model import Policy, load_few_layers
from raydaa.training.probe import ArchitectureError
from raydaa.training.tokenizer import stops_of

VERSION = 1
TOKENS = ("prompt_tokens", "chosen_tokens", "rejected_tokens", "tokens")


def check_model(study: Study, prepared: Prepared) -> None:
    """The study's models can be asked for log-probabilities and trained as it says; InputError where not."""
    settings = study.settings
    trust = study.settings.model.trust_remote_code
    starts = [local_model(name) for name in models_named(settings) if sft_fraction(settings, name) is None]
    base = base_model(study)
    laid_out = _laid_out(base, trust)
    if settings.training.lora is not None:
        try:
            adapted_layers(laid_out, settings.training.lora.targets)
        except ValueError as error:
            raise InputError(f"training.lora.targets: {error}") from None
    _check_ids(base, prepared, laid_out.get_input_embeddings().weight.shape[0])
    for folder in dict.fromkeys([base, *starts]):
        _check_architecture(folder, study.cache / "prepared", trust)


def _laid_out(folder: Path, trust: bool) -> Any:
    """The model of a folder without memory for its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
    except Exception as error:  # of a configuration or modelling code that is somebody's
        raise InputError(f"{folder}: is no causal language model that can be loaded: {first_line(error)}") from None


def _check_ids(base: Path, prepared: Prepared, size: int) -> None:
    """Every token of the study has a row of the embedding."""
    largest = max([*_largest_ids(prepared), *stops_of(prepared.tokenizer)])
    if largest >= size:
        raise InputError(
            f"{base}: the tokenizer gives token {largest}, and the model's embedding has {size} rows; "
            f"save the model with the tokenizer that it was made for"
        )


def _largest_ids(prepared: Prepared) -> Iterator[int]:
    """The largest token id in each column of the prepared tables."""
    for folder in prepared.folders.values():
        for path in sorted(folder.glob("*.parquet")):
            table = read(path)
            for name in set(TOKENS) & set(table.column_names):
                yield pc.max(pc.list_flatten(table[name])).as_py() or 0


def _check_architecture(folder: Path, cache: Path, trust: bool) -> None:
    """Its log-probabilities can be had as its own forward pass gives them; once for an architecture."""
    key = key_of(version=VERSION, config=file_hash(folder / "config.json"), transformers=version("transformers"))

    def fill(temporary: Path) -> None:
        try:
            way = Policy(load_few_layers(folder, trust_remote_code=trust)).way
        except ArchitectureError as error:
            raise InputError(f"{folder}: {error}") from None
        except Exception as error:  # of weights that are not the configuration's, or modelling code of somebody's
            kind = ((read_json(folder / "config.json") or {}).get("architectures") or ["the model"])[0]
            raise InputError(f"{folder}: {kind} can't be loaded: {first_line(error)}") from None
        write_json(temporary / "way.json", {"attention": way.attention, "own_head": way.own_head})

    make_folder(cache / f"architecture-{key}", fill)


def check_caches(study: Study) -> None:
    """What studies share can be written."""
    folder = study.cache
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark = folder / ".writable"
        mark.touch()
        mark.unlink()
    except OSError as error:
        raise InputError(f"storage.cache: {folder}: can't be written: {error.strerror}; name another folder") from None
