"""A model behind OpenAI's protocol, by Ray Serve and vLLM.

serve run raydaa.generation.server:app model=DIR           # or clusters/serve.yaml
with raydaa.serve(DIR) as endpoint: …                      # endpoint.url, endpoint.model
"""

import contextlib
import hashlib
import hmac
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from raydaa.cluster import connected
from raydaa.generation.serving import Serving, config_of

if TYPE_CHECKING:
    from ray.serve import Application

ENDPOINT = "raydaa-endpoint"
ROUTES = {
    "models": ("GET", "/v1/models"),
    "model_data": ("GET", "/v1/models/{model:path}"),
    "completions": ("POST", "/v1/completions"),
    "chat": ("POST", "/v1/chat/completions"),
    "tokenize": ("POST", "/tokenize"),
    "detokenize": ("POST", "/detokenize"),
}


def app(arguments: dict[str, Any]) -> "Application":
    """An OpenAI-compatible endpoint over a checkpoint: what ``serve run raydaa.generation.server:app`` builds.

    ``arguments`` are the fields of `Serving`; ValueError in one line where they are wrong.
    """
    try:
        serving = Serving.model_validate(arguments)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if not (serving.model / "config.json").is_file():
        raise ValueError(f"model: {serving.model}: is not a model folder; it has no config.json")
    return _endpoint(serving)


def _endpoint(serving: Serving) -> "Application":
    # As OpenAiIngress's own documentation builds an application of several parts.
    from ray import serve
    from ray.llm._internal.serve.core.configs.openai_api_models import to_model_metadata
    from ray.serve.llm import build_llm_deployment
    from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress

    config, digest = config_of(serving), _digest(serving.api_key_env)
    _refuse_strangers(_http_host(), digest)

    class Ingress(OpenAiIngress):
        def __init__(self, **parts: Any) -> None:
            _refuse_strangers(_http_host(), digest)  # Serve may have been started after the application was built
            super().__init__(**parts)

    options = {**OpenAiIngress.get_deployment_options([config]), "ray_actor_options": {"num_cpus": 0.1}}
    ingress = serve.deployment(make_fastapi_ingress(Ingress, endpoint_map=_guarded(digest)), **options)
    cards = {serving.title: to_model_metadata(serving.title, config)}
    return ingress.bind(llm_deployments={serving.title: build_llm_deployment(config)}, model_cards=cards)


def _digest(variable: str | None) -> bytes | None:
    """Of the key in the environment variable: the key itself goes nowhere."""
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise ValueError(f"api_key_env: {variable} is not set, or empty")
    return hashlib.sha256(key.encode()).digest()


def _http_host() -> str:
    """Where the cluster's Serve listens; its default where none runs yet."""
    import ray
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False) if ray.is_initialized() else None
    return str(client.http_config.host) if client else "127.0.0.1"


def _refuse_strangers(host: str, digest: bytes | None) -> None:
    try:
        local = ip_address(host).is_loopback
    except ValueError:  # a name
        local = host == "localhost"
    if not local and digest is None:
        raise ValueError(f"host: {host} is seen by others; name an environment variable with a key as api_key_env")


def _guarded(digest: bytes | None) -> dict[str, Callable[[Any], Any]]:
    """Routes that ask for the key, where there is one, before anything else."""
    from fastapi import Depends, HTTPException, Request

    async def check(request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        right = digest is None or hmac.compare_digest(hashlib.sha256(key.encode()).digest(), digest)
        if not right or (digest is not None and scheme.lower() != "bearer"):
            raise HTTPException(401, "the API key is missing or wrong")

    def route(method: str, path: str) -> Callable[[Any], Any]:
        return lambda application: application.api_route(path, methods=[method], dependencies=[Depends(check)])

    return {name: route(*place) for name, place in ROUTES.items()}


@dataclass(frozen=True)
class Endpoint:
    """Where a served model answers: ``url`` is the base of OpenAI's paths, ``model`` what requests call it."""

    url: str
    model: str


@contextlib.contextmanager
def serve(
    checkpoint: str | Path, host: str = "127.0.0.1", port: int | None = None, **settings: Any
) -> Iterator[Endpoint]:
    """An OpenAI-compatible endpoint over ``checkpoint`` until the end of the block, on a free port where none is named.

    ``settings`` are the other fields of `Serving`. On the Ray this process is connected to, else on one of its own.
    ValueError where the settings are wrong, or where a host that others see has no key.
    """
    import ray
    from ray import serve as ray_serve

    serving = Serving.model_validate({"model": checkpoint, **settings})
    _refuse_strangers(host, _digest(serving.api_key_env))
    port = port or _free_port(host)
    with contextlib.nullcontext() if ray.is_initialized() else connected(None):
        ray_serve.start(http_options={"host": host, "port": port})
        try:
            ray_serve.run(app({"model": checkpoint, **settings}), name=ENDPOINT, route_prefix="/")
            yield Endpoint(f"http://{host}:{port}/v1", serving.title)
        finally:
            ray_serve.delete(ENDPOINT)


def _free_port(host: str) -> int:
    with socket.socket() as free:
        free.bind((host, 0))
        return int(free.getsockname()[1])
