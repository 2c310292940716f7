"""The endpoint as `serve run` starts it from the file in `clusters/`."""

import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from raydaa.generation.server import app
from raydaa.generation.serving import available, serve_running
from tests.command import Command
from tests.own_cluster import free_ports

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not available(), reason="vLLM is not installed"),
]

SHIPPED = Path(__file__).parent.parent.parent / "clusters" / "serve.yaml"


@pytest.fixture
def config(pocket_model: Path) -> dict[str, Any]:
    """The shipped file, over a model and a port of this test."""
    made: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
    made["applications"][0]["args"] |= {"model": str(pocket_model), "max_model_len": 200}
    made["http_options"]["port"] = free_ports(1)[0]
    return made


def test_its_application_is_not_built_where_others_would_see_it(own_ray: None, config: dict[str, Any]) -> None:
    """`serve run` starts Serve by the file's options and then asks for the application."""
    with serve_running(http_options={**config["http_options"], "host": "0.0.0.0"}, proxy_location="Disabled"):
        refusal = "host: 0.0.0.0 is seen by others; name an environment variable with a key as api_key_env"
        with pytest.raises(ValueError, match=refusal):
            app(config["applications"][0]["args"])


def test_the_shipped_file_serves(tmp_path: Path, config: dict[str, Any], pocket_model: Path) -> None:
    command = Command(tmp_path / "serve")
    url, body = f"http://127.0.0.1:{config['http_options']['port']}/v1", {"prompt": "list", "max_tokens": 3}
    path = command.folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    with command.start_code("from ray.serve.scripts import cli; cli()", "run", str(path)) as process:
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
