"""The stage prepare: the base model, its tokenizer, and the sources as tables."""

from dataclasses import replace
from pathlib import Path

from raydaa.compat.imports import quiet_transformers
from raydaa.data.files import DataError
from raydaa.data.inputs import open_inputs
from raydaa.data.prepare import Tables, TooManyRejectsError, table_folder
from raydaa.data.prepare import prepare as write_tables
from raydaa.errors import InputError
from raydaa.pipeline.checks import check_baselines, check_lengths, check_models
from raydaa.pipeline.context import Prepared
from raydaa.pipeline.model_checks import check_caches, check_model
from raydaa.pipeline.named_models import ModelRef, base_model
from raydaa.pipeline.stage import KEPT, Count, Stage
from raydaa.progress import Progress
from raydaa.store.artifacts import intact, write_text
from raydaa.store.records import DataReport
from raydaa.store.study_folder import StudyFolder
from raydaa.study import Study
from raydaa.training.tokenizer import TokenizerError, load_tokenizer, study_tokenizer

STAGE = Stage(
    name="prepare",
    writes="tokenized tables (Parquet), rejects, a report on the data",
    depends_on="data files, tokenizer, chat template, lengths",
    engine="pyarrow",
)


def prepare(study: Study, progress: Progress) -> Prepared:
    """Model folder, tokenized tables, data report. InputError says what is wrong with the input."""
    quiet_transformers()
    progress.start(STAGE.name, study.settings.data.preferences.source)
    try:
        check_caches(study)
        base = base_model(study)
        check_models(study.settings, base)
        prepared, tables = tokenized(study, base)
        prepared = replace(prepared, base=ModelRef.at("base", base))
        check_lengths(study.settings, prepared)
        check_baselines(study.settings, prepared)
        check_model(study, prepared)
    except TooManyRejectsError as error:
        rejects = StudyFolder(study.folder).rejects
        write_text(rejects, error.rejects)
        raise InputError(f"{study.where}: {error} (all of them: {rejects})") from None
    except (DataError, InputError, TokenizerError) as error:
        raise InputError(f"{study.where}: {str(error).removeprefix(f'{study.where}: ')}") from None
    write_text(StudyFolder(study.folder).rejects, tables.rejects)
    StudyFolder(study.folder).data_report.write(tables.report)
    counts = ", ".join(f"{count} {name}" for name, count in prepared.rows.items())
    rejected = sum(tables.report.rejected.values())
    progress.end(f"{counts}; {rejected} rejected{_unread(tables.report)}{'' if tables.any_made else f'; {KEPT}'}")
    for note, count in tables.report.notes.items():
        if count:
            progress.line(f"prepare   {count} {note}")
    return prepared


def _unread(report: DataReport) -> str:
    """The columns of sources that nothing was read from."""
    names = dict.fromkeys(name for columns in report.unread.values() for name in columns)
    return f"; columns not read: {', '.join(names)}" if names else ""


def count(study: Study, base: Path) -> Count:
    """How many groups of the study's tables are there."""
    settings, cache = study.settings, study.cache / "prepared"
    folder = study_tokenizer(base, settings.data.chat_template, cache, settings.model.trust_remote_code)
    groups = open_inputs(settings, folder).keys
    return Count(sum(intact(table_folder(cache, group, key)) for group, key in groups.items()), len(groups))


def tokenized(study: Study, base: Path) -> tuple[Prepared, Tables]:
    """The study's tables by the tokenizer of ``base``, whose weights nobody has looked at yet.

    DataError, TokenizerError or InputError where they can't be made.
    """
    settings, cache = study.settings, study.cache / "prepared"
    trust = settings.model.trust_remote_code
    folder = study_tokenizer(base, settings.data.chat_template, cache, trust)
    inputs = open_inputs(settings, folder)
    tables = write_tables(inputs, settings.data, load_tokenizer(folder, trust), cache)
    return Prepared(ModelRef("base", base, ""), folder, tables.folders, inputs.keys, tables.report.rows), tables
