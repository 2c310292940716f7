"""The endpoint as `serve run` starts it from the file in `clusters/`."""

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from raydaa.generation.serving import available
from tests.command import Command
from tests.own_cluster import free_ports

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not available(), reason="vLLM is not installed"),
]

SHIPPED = Path(__file__).parent.parent.parent / "clusters" / "serve.yaml"


def started(command: Command, config: dict[str, Any]) -> subprocess.Popen[str]:
    """`serve run` on a Ray of its own."""
    path = command.folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    return command.start_code("from ray.serve.scripts import cli; cli()", "run", str(path))


@contextlib.contextmanager
def too_long(process: subprocess.Popen[str], seconds: float = 300) -> Iterator[None]:
    """Whoever reads the output of a command that says nothing more would wait for ever."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@pytest.fixture
def config(pocket_model: Path) -> dict[str, Any]:
    """The shipped file, over a model and a port of this test."""
    made: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
    made["applications"][0]["args"] |= {"model": str(pocket_model), "max_model_len": 200}
    made["http_options"]["port"] = free_ports(1)[0]
    return made


def test_the_shipped_file_serves_and_hides(tmp_path: Path, config: dict[str, Any], pocket_model: Path) -> None:
    """First where others would see it, without a key: refused. Then as it is."""
    command = Command(tmp_path / "serve")
    open_door = {**config, "http_options": {**config["http_options"], "host": "0.0.0.0"}}
    with started(command, open_door) as process, too_long(process):
        assert process.stdout is not None
        told = next((line for line in process.stdout if "host: 0.0.0.0 is seen by others" in line), "")
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert "; name an environment variable with a key as api_key_env" in told
    assert command.wait_until_gone() == {}
    url, body = f"http://127.0.0.1:{config['http_options']['port']}/v1", {"prompt": "list", "max_tokens": 3}
    with started(command, config) as process, too_long(process, 600):
        deadline = time.monotonic() + 400
        answer = None
        while process.poll() is None and time.monotonic() < deadline and (answer is None or answer.status_code != 200):
            time.sleep(0.5)
            try:
                answer = httpx.post(f"{url}/completions", json={**body, "model": pocket_model.name}, timeout=60)
            except httpx.TransportError:
                continue
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    assert answer is not None, output
    assert answer.json()["usage"]["completion_tokens"] <= 3
    assert command.wait_until_gone() == {}
