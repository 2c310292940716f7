"""Tables of a study, made without a run around them."""

from pathlib import Path
from typing import Any

from raydaa.data.inputs import open_inputs
from raydaa.data.prepare import Preparation
from raydaa.study import Study
from raydaa.training.tokenizer import load_tokenizer


def prepare(study: Study, model: Path, folder: Path, tokenizer: Any = None) -> Preparation:
    """The study's tables below ``folder``, by the tokenizer in ``model`` or another."""
    tables = Preparation(open_inputs(study.settings, model), study.settings.data, folder)
    tables.make_missing(tokenizer or load_tokenizer(model))
    return tables


def folder_of(tables: Preparation, name: str) -> Path:
    """Where a group of tables lies."""
    return {group.name: group.output.folder for group in tables.groups}[name]
