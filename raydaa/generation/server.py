"""A model behind OpenAI's protocol, by Ray Serve and vLLM.

serve run raydaa.generation.server:app model=DIR           # or clusters/serve.yaml
with raydaa.serve(DIR) as endpoint: …                      # endpoint.url, endpoint.model
"""

import contextlib
import hashlib
import hmac
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from raydaa.cluster import connected
from raydaa.compat.ray_serve import front_application, model_card
from raydaa.generation.serving import Serving, config_of, http_options, serve_running

if TYPE_CHECKING:
    from ray.serve import Application

ENDPOINT = "raydaa-endpoint"


def app(arguments: dict[str, Any]) -> "Application":
    """An OpenAI-compatible endpoint over a checkpoint: what ``serve run raydaa.generation.server:app`` builds.

    ``arguments`` are the fields of `Serving`; ValueError in one line where they are wrong.
    """
    return _endpoint(_checked(arguments))


def _checked(arguments: dict[str, Any]) -> Serving:
    try:
        serving = Serving.model_validate(arguments)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if not (serving.model / "config.json").is_file():
        raise ValueError(f"model: {serving.model}: is not a model folder; it has no config.json")
    return serving


def _endpoint(serving: Serving) -> "Application":
    # As OpenAiIngress's own documentation builds an application of several parts.
    from ray import serve
    from ray.serve.llm import build_llm_deployment
    from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress

    config = config_of(serving)
    digest = _digest(serving.api_key_env)
    refuse_strangers(_host(), digest)

    class Ingress(OpenAiIngress):
        def __init__(self, **parts: Any) -> None:
            refuse_strangers(_host(), digest)  # Serve may have been started after the application was built
            super().__init__(**parts)

    front = front_application()
    front.add_middleware(Guard, digest=digest)
    options = {**OpenAiIngress.get_deployment_options([config]), "ray_actor_options": {"num_cpus": 0.1}}
    ingress = serve.deployment(make_fastapi_ingress(Ingress, app=front), **options)
    cards = {serving.title: model_card(serving.title, config)}
    return ingress.bind(llm_deployments={serving.title: build_llm_deployment(config)}, model_cards=cards)


def _digest(variable: str | None) -> bytes | None:
    """Of the key in the environment variable: the key itself goes nowhere."""
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise ValueError(f"api_key_env: {variable} is not set, or empty")
    return hashlib.sha256(key.encode()).digest()


def _host() -> str:
    """Where the cluster's Serve listens; its default where none runs yet."""
    running = http_options()
    return "127.0.0.1" if running is None else str(running.host)


def refuse_strangers(host: str, digest: bytes | None) -> None:
    """ValueError where ``host`` is seen by others and there is no key."""
    if digest is None and not _is_local(host):
        raise ValueError(f"host: {host} is seen by others; name an environment variable with a key as api_key_env")


def _is_local(host: str) -> bool:
    """Whether ``host``, an address or a name, is this machine for itself alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


class Guard:
    """Before anything else is looked at, asks every request for the key, and passes on all but it.

    Where there is none, the request must have been sent to this machine by one of its own names: a browser here can
    be led to a name of anybody's that points to this machine, and would show that name's pages the answers.
    """

    def __init__(self, app: Any, digest: bytes | None) -> None:
        self.app = app
        self.digest = digest

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self.digest is None and not _is_local(_named(headers.get(b"host", b""))):
            await _refuse(403, "the request was not sent to this machine by a name of its own", scope, receive, send)
        elif self.digest is not None and not self._right(headers.get(b"authorization", b"")):
            await _refuse(401, "the API key is missing or wrong", scope, receive, send)
        else:
            kept = [pair for pair in scope["headers"] if pair[0] != b"authorization"]
            await self.app({**scope, "headers": kept}, receive, send)

    def _right(self, authorization: bytes) -> bool:
        scheme, _, key = authorization.partition(b" ")
        same = hmac.compare_digest(hashlib.sha256(key).digest(), self.digest or b"")
        return same and scheme.lower() == b"bearer"


def _named(header: bytes) -> str:
    """The host in a request's header of that name; nothing where it holds none."""
    with contextlib.suppress(ValueError):
        return urlsplit(f"//{header.decode('latin-1')}").hostname or ""
    return ""


async def _refuse(status: int, message: str, *request: Any) -> None:
    from starlette.responses import JSONResponse

    error = {"message": message, "type": "invalid_request_error", "code": status}
    await JSONResponse({"error": error}, status_code=status)(*request)


@dataclass(frozen=True)
class Endpoint:
    """Where a served model answers: ``url`` is the base of OpenAI's paths, ``model`` what requests call it."""

    url: str
    model: str


@contextlib.contextmanager
def serve(
    checkpoint: str | Path, host: str = "127.0.0.1", port: int | None = None, **settings: Any
) -> Iterator[Endpoint]:
    """An OpenAI-compatible endpoint over a checkpoint until the end of the block.

    On the Ray that this process is connected to, else on one of its own.

    Args:
        checkpoint: A model folder.
        host: Where to listen; one that others see wants a key.
        port: None takes a free one.
        **settings: The other fields of `raydaa.generation.serving.Serving`.

    Yields:
        The endpoint's address, and what requests call the model.

    Raises:
        ValueError: Where the settings are wrong, where a host that others see has no key, or where Serve listens
            elsewhere already.
    """
    import ray
    from ray import serve as ray_serve

    serving = _checked({"model": checkpoint, **settings})
    refuse_strangers(host, _digest(serving.api_key_env))
    with contextlib.nullcontext() if ray.is_initialized() else connected(None):
        port = _port(host, port)
        with serve_running(http_options={"host": host, "port": port}):
            try:
                ray_serve.run(_endpoint(serving), name=ENDPOINT, route_prefix="/")
                shown = f"[{host}]" if ":" in host else host
                yield Endpoint(f"http://{shown}:{port}/v1", serving.title)
            finally:
                ray_serve.delete(ENDPOINT)


def _port(host: str, port: int | None) -> int:
    """The port to listen on; ValueError where Serve runs already and does not listen there."""
    running = http_options()
    if running is None:
        return port or _free_port(host)
    nowhere = str(getattr(running.location, "value", running.location)) in ("NoServer", "Disabled")
    if nowhere or running.host != host or port not in (None, running.port):
        where = "nowhere" if nowhere else f"at {running.host}:{running.port}"
        raise ValueError(f"host: Ray Serve runs here already and listens {where}; shut it down first")
    return int(running.port)


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
        free.bind((host, 0))
        return int(free.getsockname()[1])
