"""The stage prepare: the sources as tables."""

from collections.abc import Iterator, Sequence

from raydaa.data.prepare import TableGroup, TooManyRejectsError
from raydaa.errors import InputError
from raydaa.pipeline.context import Context
from raydaa.pipeline.prepared import preparation, tokenizer_folder
from raydaa.pipeline.stage import Batch, OutputStage
from raydaa.store.artifacts import write_text
from raydaa.store.records import DataReport
from raydaa.training.tokenizer import load_tokenizer


def _batches(context: Context) -> Iterator[Batch[TableGroup]]:
    """All groups of tables: each is small beside what is trained on it."""
    yield Batch(context.settings.data.preferences.source, context.once(preparation).groups)


def _make(context: Context, missing: Sequence[TableGroup]) -> str:
    tables = context.once(preparation)
    tokenizer = load_tokenizer(context.once(tokenizer_folder), context.settings.model.trust_remote_code)
    report = DataReport({}, {}, {}, {})
    try:
        for group in missing:
            tables.make(group, tokenizer)
            report = report.with_more(group.read_report())
    except TooManyRejectsError as error:
        raise _refused(context, error) from None
    counts = ", ".join(f"{count} {name}" for name, count in report.rows.items())
    return f"{counts}; {sum(report.rejected.values())} rejected{_unread(report)}"


def _finish(context: Context) -> None:
    """Tables that were kept are checked again: a study may allow fewer rejects than it did."""
    tables = context.once(preparation)
    try:
        for group in tables.groups:
            tables.check(group)
    except TooManyRejectsError as error:
        raise _refused(context, error) from None
    report = tables.read_report()
    write_text(context.at.rejects, "".join(group.read_rejects() for group in tables.groups))
    context.at.data_report.write(report)
    for note, count in report.notes.items():
        if count:
            context.progress.line(f"prepare   {count} {note}")


def _refused(context: Context, error: TooManyRejectsError) -> InputError:
    """What is wrong with the rows, with the list of all of them written down."""
    write_text(context.at.rejects, error.rejects)
    return InputError(f"{error} (all of them: {context.at.rejects})")


def _unread(report: DataReport) -> str:
    """The columns of sources that nothing was read from."""
    names = dict.fromkeys(name for columns in report.unread.values() for name in columns)
    return f"; columns not read: {', '.join(names)}" if names else ""


STAGE = OutputStage(
    name="prepare",
    writes="tokenized tables (Parquet), rejects, a report on the data",
    depends_on="data files, tokenizer, chat template, lengths",
    engine="pyarrow",
    first=True,
    batches=_batches,
    make=_make,
    finish=_finish,
)
