"""What a study's settings come to on the machines there are: the engine, a trial's worker group, how many at a time.

Nothing here looks at anything: `run`, `plan` and the checks are told alike.
"""

from dataclasses import dataclass, replace

from raydaa.accelerators import name_there
from raydaa.cluster import Resources
from raydaa.settings.study import StudySettings
from raydaa.training.spec import PLAIN, SHARDED, Placement


@dataclass(frozen=True)
class WorkerGroup:
    """What the workers of one trial are given."""

    count: int
    cpus: float
    gpus: float
    accelerator: str | None  # as the cluster calls it
    in_process: bool  # one worker is no more than a process of this machine
    on_one_node: bool  # all on one machine: between machines gradients travel ten times slower


@dataclass(frozen=True)
class Resolved:
    """``slots`` are the trials that run at a time."""

    group: WorkerGroup
    placement: Placement
    slots: int

    @property
    def apart(self) -> bool:
        """Whether the weights of every model are spread over the workers of a group."""
        return self.placement.apart and not self.group.in_process


def resolve(settings: StudySettings, resources: Resources) -> Resolved:
    """What ``auto`` means, and what fits."""
    group = _group(settings, resources)
    most = _max_groups(group, resources)
    wanted = settings.scaling.concurrent_trials
    slots = most if wanted == "auto" else min(wanted, most) if resources.local else wanted
    return Resolved(group, _placement(settings, group), slots)


def _group(settings: StudySettings, resources: Resources) -> WorkerGroup:
    scaling = settings.scaling
    # A cluster that grows may have no GPU yet.
    on_gpu = resources.gpus or scaling.accelerator
    gpus = (1.0 if on_gpu else 0.0) if scaling.gpus_per_worker == "auto" else scaling.gpus_per_worker
    wanted = scaling.accelerator
    group = WorkerGroup(
        count=scaling.workers,
        cpus=scaling.cpus_per_worker,
        gpus=gpus,
        accelerator=None if wanted is None else name_there(wanted, resources.accelerators) or wanted,
        in_process=resources.local and not gpus,
        on_one_node=False,
    )
    if not gpus or not any(_groups_on(node, group) for node in resources.nodes):
        return group
    return replace(group, on_one_node=True)


def _placement(settings: StudySettings, group: WorkerGroup) -> Placement:
    scaling = settings.scaling
    # One worker has nobody to share weights with, and stage 3 leaks where actors are reused.
    stage = min(scaling.zero_stage, 2) if group.count == 1 and not scaling.cpu_offload else scaling.zero_stage
    engine = SHARDED if scaling.shards(group.gpus > 0) else PLAIN
    return Placement(engine=engine, zero_stage=stage, cpu_offload=scaling.cpu_offload)


def _groups_on(node: tuple[float, float], group: WorkerGroup) -> int:
    """How many worker groups one node of so many CPUs and GPUs holds whole."""
    cpus, gpus = node
    return int(min(cpus / group.cpus, gpus / group.gpus) / group.count)


def _max_groups(group: WorkerGroup, resources: Resources) -> int:
    if group.on_one_node:
        return sum(_groups_on(node, group) for node in resources.nodes)
    by_cpus = int(resources.cpus / (group.cpus * group.count))
    return min(by_cpus, int(resources.gpus / (group.gpus * group.count))) if group.gpus else by_cpus
