"""Studies on a cluster of several nodes, submitted as jobs."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydaa.results import TrialResults
from raydaa.store.records import PREFERENCE_LOSS
from raydaa.store.study_folder import StudyFolder
from raydaa.trial_row import TrialRow
from tests.command import wait_for
from tests.own_cluster import OwnCluster
from tests.studies import micro, written

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnCluster]:
    made = OwnCluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield made
    finally:
        made.close()


def test_the_exit_code_says_that_the_input_was_wrong(cluster: OwnCluster) -> None:
    done = cluster.submit("python", "-m", "raydaa", "run", "missing.yaml", "--address", "auto")
    assert done.returncode != 0
    assert "raydaa: missing.yaml: No such file or directory" in done.stdout


LOOK = """
import ray
from pathlib import Path
from raydaa.cluster import blind_nodes

class Elsewhere(type(Path())):
    def exists(self):
        return False

ray.init(log_to_driver=False)
here = Path({folder!r})
print("blind:", blind_nodes(here), len(blind_nodes(Elsewhere(here))), sorted(p.name for p in here.glob(".seen*")))
there = ray.nodes()
ray.nodes = lambda: [*there, dict(there[0], NodeID="ab" * 28)]  # listed, and gone before it is asked
print("gone:", blind_nodes(here))
"""


def test_nodes_that_do_not_see_a_folder_are_named(cluster: OwnCluster) -> None:
    script = cluster.folder / "look.py"
    script.write_text(LOOK.format(folder=str(cluster.folder)))
    output = cluster.submit("python", str(script)).stdout
    assert "blind: [] 1 []" in output
    assert "gone: []" in output


def losses(folder: Path, row: TrialRow) -> dict[int, float]:
    """A trial's held-out preference loss by step."""
    metrics = StudyFolder(folder).trial(row.key).read_metrics()
    return {each["step"]: each[PREFERENCE_LOSS] for each in metrics if PREFERENCE_LOSS in each}


def test_a_study_lives_on_nodes_that_come_and_go(cluster: OwnCluster) -> None:
    """A head without CPUs; a node joins and the study starts, the SFT stage's process dies, the node is lost in the
    sweep, and another goes on."""
    study = written(cluster.folder, micro(scaling={"concurrent_trials": 2}))
    folder = cluster.folder / "out"
    command = ["python", "-m", "raydaa", "run", str(study), "--address", "auto", "--output", str(folder)]
    log = cluster.folder / "job.log"
    with log.open("w") as file:
        job = subprocess.Popen(
            cluster.submission(*command),
            env=cluster.environment,
            cwd=cluster.folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
        )
    first = cluster.add_node(1)
    training = wait_for(lambda: cluster.named("ray::_run_alone"), job)
    os.kill(training[0], signal.SIGKILL)
    wait_for(lambda: list(folder.glob("trials/*/metrics.jsonl")), job)
    cluster.lose(first)
    second = cluster.add_node(2)
    assert job.wait(300) == 0, log.read_text()
    # The lost node's trials were tried again on the new one, and the brackets decided as ever.
    assert "2 finished, 2 stopped" in log.read_text()
    rows = TrialResults.load(folder).rows
    finished, stopped = ({row.method: row for row in rows if row.state == state} for state in ("finished", "stopped"))
    assert set(finished) == set(stopped) == {"dpo", "orpo"}
    for method, loser in stopped.items():  # which learning rate wins depends on the processor's rounding
        at_rung, other = (
            losses(folder, finished[method])[loser.training.step],
            losses(folder, loser)[loser.training.step],
        )
        assert at_rung < other
    assert second.poll() is None
