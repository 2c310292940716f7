"""The whole cluster dies under a study, head and all; on the next one the same command goes on.

The first has no node until the autoscaler sees that work waits for one.
"""

from pathlib import Path

import pytest

from tests.command import Command, wait_for
from tests.own_cluster import OwnCluster
from tests.studies import begun, done, table

pytestmark = [pytest.mark.slow, pytest.mark.soak]


def test_the_head_is_killed(command: Command, undisturbed: tuple[Path, str]) -> None:
    folder = begun(undisturbed[0], command.folder / "headless")
    arguments = ["run", str(command.folder / "micro.yaml"), "--output", str(folder)]
    arguments += [
        "--set",
        f"storage.cache={command.folder / 'cache' / 'raydaa'}",
        "--set",
        "scaling.concurrent_trials=2",
    ]
    first = OwnCluster(command.folder / "first", scales=True)
    try:
        first.environment["RAY_gcs_rpc_server_reconnect_timeout_s"] = "5"
        driver = first.start(*arguments, "--address", f"127.0.0.1:{first.port}")
        wait_for(lambda: list(folder.glob("trials/*/model")), driver)
        for node in first.nodes:
            first.lose(node)
        output, _ = driver.communicate(timeout=120)
    finally:
        first.close()
    assert driver.returncode == 1, output
    assert output.splitlines()[-1].startswith("raydaa: the run died without a word (see ")
    assert output.splitlines()[-1].endswith("the same command goes on from here)")
    assert "] generate " not in output
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/model/model.safetensors")}
    assert finished
    again = OwnCluster(command.folder / "second")
    try:
        again.add_node(2)
        done(again.run(*arguments, "--address", f"127.0.0.1:{again.port}"))
    finally:
        again.close()
    assert table(folder) == table(undisturbed[0])
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
