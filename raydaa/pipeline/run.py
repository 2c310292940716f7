"""The stages in order: what each depends on is its key; what is there already is not made again.

Stages are imported by the functions that run them: Ray starts in a thread meanwhile.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import yaml

from raydaa.errors import InputError, RaydaaError
from raydaa.pipeline.lock import locked
from raydaa.pipeline.versions import note_versions
from raydaa.progress import Progress, captured, warned
from raydaa.store.artifacts import write_text
from raydaa.store.study_folder import StudyFolder
from raydaa.study import Study

if TYPE_CHECKING:
    from raydaa.pipeline.context import Context
    from raydaa.reporting.results import TrialResults


def run_study(study: Study, address: str | None = None) -> "TrialResults":
    """Run every stage that is not done yet, and return the results.

    ``address`` is a Ray cluster's; None starts Ray on this machine and stops it at the end. InputError on input
    that can't be used: then a study folder that was not there before is not left behind.
    """
    from raydaa.cluster import connecting
    from raydaa.pipeline.context import Context

    at = StudyFolder(study.folder)
    existed = study.folder.exists()
    with locked(study.folder) as locks, captured(at.log) as terminal, input_errors_of(study):
        at.check_format()
        progress = Progress(terminal, latest=at.progress)
        with warned(progress):
            if not locks:
                progress.line(f"{study.folder}: its file system knows no locks; see that no other run works in it")
            with connecting(address, _surely_prepared(study), _preload(study)) as ready:
                context = Context(study, progress, ready)
                try:
                    _restore(study, progress)
                    run_first(context)
                except RaydaaError:
                    if not existed:  # nothing was begun: only the list of rejects is worth keeping
                        at.progress.remove()
                        if not at.rejects.exists():
                            shutil.rmtree(study.folder)
                    raise
                _begin(context)
                _run_stages(context)
            return _run_last(context)


@contextmanager
def input_errors_of(study: Study) -> Iterator[None]:
    """What is wrong with the user's input is an InputError that names the study's file."""
    from raydaa.data.rows import DataError
    from raydaa.training.tokenizer import TokenizerError

    try:
        yield
    except (DataError, InputError, TokenizerError) as error:
        raise InputError(f"{study.where}: {str(error).removeprefix(f'{study.where}: ')}") from None


def _restore(study: Study, progress: Progress) -> None:
    """What another machine has sent to the study's mirror comes back before anything is made again."""
    url = study.settings.storage.mirror
    if url is None:
        return
    from raydaa.store.mirror import STUDY, Mirror, MirrorError

    progress.start("mirror", url)
    try:
        fetched = Mirror(url).pull(study.folder, STUDY)
    except MirrorError as error:
        raise InputError(f"storage.mirror: {error}") from None
    StudyFolder(study.folder).check_format()
    progress.end(f"{fetched} files restored")


def _surely_prepared(study: Study) -> bool:
    """Whether there will be work for Ray: nobody's data but the pocket world's, or what was prepared before."""
    from raydaa.data.inputs import POCKET

    world = (study.settings.model.source, study.settings.data.preferences.source)
    return set(world) == {POCKET} or StudyFolder(study.folder).data_report.exists()


def _preload(study: Study) -> list[str]:
    """What waiting processes of a Ray of our own import, so that trials start at once.

    Nothing where there is a GPU: its library would count devices before Ray has said which are the process's. Nor
    where vLLM generates or groups train: the processes of Ray Serve and Train around them would import it too. Nor
    where a sweep was over before: there is little to train.
    """
    import torch

    from raydaa.generation.serving import available

    # Whether an engine that was asked for is there, preparing says.
    by_vllm = available() and study.settings.generation.is_served(installed=True)
    plain = study.settings.scaling.workers == 1 and not by_vllm
    wanted = plain and not torch.cuda.device_count() and not StudyFolder(study.folder).trial_list.exists()
    return ["raydaa.tuning.worker_preload"] if wanted else []


def run_first(context: "Context") -> None:
    """What needs no cluster, with what can be known to go wrong before and after it."""
    from raydaa.pipeline.checks import check_inputs, check_prepared
    from raydaa.pipeline.graph import all_stages

    context.progress.line(f"{'check':<9} {context.settings.model.source}")
    check_inputs(context)
    for stage in all_stages():
        if stage.first:
            stage.run(context)
    check_prepared(context)
    context.settle()


def _begin(context: "Context") -> None:
    """The study's folder says what study it is of."""
    context.at.write_format()
    settings = json.loads(context.settings.model_dump_json())
    write_text(context.at.settings, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    note_versions(context.at)


def _run_stages(context: "Context") -> None:
    """Every stage that needs the cluster in its order; one may ask for another that was passed, or for itself again."""
    from raydaa.pipeline.checks import check_cluster
    from raydaa.pipeline.graph import all_stages
    from raydaa.pipeline.token_budget import measure_tokens

    check_cluster(context)
    measure_tokens(context)
    stages = [stage for stage in all_stages() if not (stage.first or stage.last)]
    names = [stage.name for stage in stages]
    number = 0
    while number < len(stages):
        again = stages[number].run(context)
        number += 1
        if again is not None:
            context.forget()
            number = names.index(again)


def _run_last(context: "Context") -> "TrialResults":
    """What comes after them, without Ray; then InputError about what of the others failed."""
    from raydaa.pipeline.graph import all_stages
    from raydaa.pipeline.stages.report import results

    for stage in all_stages():
        if stage.last:
            stage.run(context)
    if context.failures:  # what was found without it is there all the same
        raise InputError(f"{context.failures[0]}; what is done is kept")
    return context.once(results)
