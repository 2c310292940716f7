"""What every stage needs to know: the study, its folders, its workers."""

import io
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from raydaa.algorithms.catalog import is_custom, method_class
from raydaa.algorithms.method import Method
from raydaa.cluster import Resources, counted, expected_resources
from raydaa.compat.ray import send_with_code
from raydaa.judging.judge import JudgeUsage
from raydaa.pipeline.resolve import Resolved, resolve
from raydaa.progress import Progress
from raydaa.settings.study import StudySettings
from raydaa.store.mirror import STUDY, Mirror, MirrorError
from raydaa.store.study_folder import StudyFolder
from raydaa.study import Study
from raydaa.training.workers import Workers

RECOUNT_SECONDS = 2.0
Value = TypeVar("Value")


@dataclass(frozen=True)
class Context:
    """One run of a study on one cluster; ``ready`` waits for that, and says what it has."""

    study: Study
    progress: Progress
    ready: Callable[[], Resources]
    spending: dict[str, JudgeUsage] = field(default_factory=dict)  # of each model that judges: limits are the run's
    failures: list[str] = field(default_factory=list)  # that nothing else waits for, in one line each
    _known: dict[Callable[..., Any], Any] = field(default_factory=dict, init=False, repr=False)
    _settled: set[Callable[..., Any]] = field(default_factory=set, init=False, repr=False)

    def once(self, ask: Callable[["Context"], Value]) -> Value:
        """What ``ask`` says of this run, asked once: what stages leave for those after them is such a function."""
        if ask not in self._known:
            self._known[ask] = ask(self)
        known: Value = self._known[ask]
        return known

    def know(self, ask: Callable[["Context"], Value], value: Value) -> None:
        """What `once` shall say: who has just made it need not read it again."""
        self._known[ask] = value

    def settle(self) -> None:
        """What is known by now stays known: nothing that a later stage does can change it."""
        self._settled.update(self._known)

    def forget(self) -> None:
        """A stage that was passed runs again: what was known after that may have changed."""
        for ask in set(self._known) - self._settled:
            del self._known[ask]

    @property
    def settings(self) -> StudySettings:
        """The study's settings."""
        return self.study.settings

    @property
    def folder(self) -> Path:
        """Where the study's results lie."""
        return self.study.folder

    @property
    def at(self) -> StudyFolder:
        """Where in it each lies."""
        return StudyFolder(self.folder)

    @cached_property
    def mirror(self) -> Mirror | None:
        """The object store that results are sent to, where the study names one."""
        url = self.settings.storage.mirror
        return None if url is None else Mirror(url)

    def send(self, folder: Path | None = None, name: str = STUDY) -> bool:
        """Send what is finished to the mirror, of the study or another folder; False, and told, where it was not."""
        if self.mirror is None:
            return False
        try:
            self.mirror.push(folder or self.folder, name)
        except MirrorError as error:
            self.progress.line(f"mirror    could not be written: {error}")
            return False
        return True

    @cached_property
    def resources(self) -> Resources:
        """What the cluster has."""
        return self.ready()

    @cached_property
    def resolved(self) -> Resolved:
        """What the settings come to on this cluster."""
        return resolve(self.settings, self.resources)

    @cached_property
    def workers(self) -> Workers:
        """The worker group of one trial."""
        scaling = self.settings.scaling
        return Workers(
            **vars(self.resolved.group),
            threads=scaling.cpus_per_worker,
            storage=str(self.at.ray),
            max_failures=scaling.max_failures,
            methods=custom_methods(self.settings),
        )

    @property
    def whole_machine(self) -> Workers:
        """The worker group of a stage that has the machine to itself."""
        if self.workers.gpus or not self.resources.local:
            return self.workers
        return replace(self.workers, threads=max(self.workers.threads, self.resources.cpus // self.workers.count))

    @property
    def one_process(self) -> Workers:
        """As `whole_machine`, where workers share nothing but the work: on one's own CPUs one does it all, without a
        group."""
        if not self.workers.in_process:
            return self.whole_machine
        return replace(self.workers, count=1, threads=max(self.workers.threads, self.resources.cpus))


def looking_context(study: Study) -> Context:
    """A run that never begins and says nothing, on the machines that are expected."""
    return Context(study, Progress(io.StringIO()), partial(expected_resources, study.settings.scaling.accelerator))


class LiveSlots:
    """How many trials run at a time as nodes come and go, counted again every few seconds."""

    def __init__(self, context: Context) -> None:
        self.settings = context.settings
        self.local = context.resources.local
        self.slots = context.resolved.slots
        self.counted_at = time.monotonic()

    def __call__(self) -> int:
        if not self.local and time.monotonic() - self.counted_at > RECOUNT_SECONDS:
            self.slots = resolve(self.settings, counted(local=False)).slots
            self.counted_at = time.monotonic()
        return self.slots


def custom_methods(settings: StudySettings) -> tuple[type[Method], ...]:
    """The study's methods that are not built in; their packages travel to the workers with their code."""
    classes = tuple({m.name: method_class(m.name) for m in settings.search.methods if is_custom(m.name)}.values())
    for cls in classes:
        package = sys.modules[cls.__module__.partition(".")[0]]
        if package.__name__ != "__main__":  # that one always travels
            send_with_code(package)
    return classes
