"""What a study's prepared data are: the base model's tokenizer and the tables that every stage reads."""

from dataclasses import dataclass
from pathlib import Path

from raydaa.data.inputs import open_inputs
from raydaa.data.prepare import Preparation
from raydaa.pipeline.context import Context
from raydaa.pipeline.named_models import ModelRef, base_model
from raydaa.training.tokenizer import study_tokenizer


@dataclass(frozen=True)
class Prepared:
    """The tokenizer, and tables with what is in them."""

    tokenizer: Path  # folder, with the chat template that the study speaks
    folders: dict[str, Path]  # of the table groups pairs, sft, prompts, prompts.<benchmark>
    keys: dict[str, str]
    rows: dict[str, int]
    read: dict[str, int]  # rows of the sources, of which some may not have been taken

    def table(self, name: str) -> Path:
        """The Parquet file of table ``name`` (train, validation, sft, prompts, prompts.<benchmark>)."""
        return self.folders.get(name, self.folders["pairs"]) / f"{name.partition('.')[0]}.parquet"


def tokenizer_folder(context: Context) -> Path:
    """The study's tokenizer; TokenizerError or InputError where there is none to be had."""
    settings = context.settings
    base = base_model(context.study)
    cache = context.study.cache / "prepared"
    return study_tokenizer(base, settings.data.chat_template, cache, settings.model.trust_remote_code)


def preparation(context: Context) -> Preparation:
    """The study's tables, made or not; DataError where their sources can't be read."""
    settings = context.settings
    inputs = open_inputs(settings, context.once(tokenizer_folder))
    return Preparation(inputs, settings.data, context.study.cache / "prepared")


def prepared_data(context: Context) -> Prepared:
    """What the stage prepare leaves, once its tables are there."""
    tables = context.once(preparation)
    folders = {group.name: group.output.folder for group in tables.groups}
    keys = {group.name: group.output.key for group in tables.groups}
    report = tables.read_report()
    return Prepared(context.once(tokenizer_folder), folders, keys, report.rows, report.read)


def base_ref(context: Context) -> ModelRef:
    """The base model, known by its weights."""
    return ModelRef.at("base", base_model(context.study))
