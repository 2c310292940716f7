"""Replicas that walk through all checkpoints of a sweep, for the pipeline: nothing listens on a port."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from raydaa.errors import first_line
from raydaa.generation.sample import Response, Sampling
from raydaa.generation.serving import Serving, config_of, serve_running

ATTEMPTS = 4  # at an answer, before a study gives up


class Pool:
    """Replicas that answer for whole checkpoints; a request whose replica died is made again, to another."""

    def __init__(self, handle: Any) -> None:
        self.generate = handle.generate.remote
        self.asked: list[Any] = []

    def ask(
        self,
        checkpoint: Path,
        version: str,
        prompts: list[list[int]],
        names: list[str],
        sampling: Sampling,
        stops: list[int],
    ) -> Callable[[], list[Response]]:
        """Ask for responses to ``prompts`` (ids), each with a name of its own; the call that waits for them.

        An answer by other weights than ``version`` is refused, and asked for again.
        """
        from ray.exceptions import RayActorError

        def ask() -> Any:
            self.asked.append(self.generate(str(checkpoint), prompts, names, sampling, stops))
            return self.asked[-1]

        first = ask()

        def answered() -> list[Response]:
            reason = ""
            for attempt in range(ATTEMPTS):
                answer = ask() if attempt else first
                try:
                    loaded, responses = answer.result()
                    if loaded == version:
                        return list(responses)
                    reason = f"answered with weights {loaded}, not {version}"
                except RayActorError as error:
                    reason = first_line(error)
            raise RuntimeError(f"{checkpoint}: {reason}, {ATTEMPTS} times in a row")

        return answered

    def close(self) -> None:
        """Nobody waits any more for what is not answered: without a word replicas would answer it all the same."""
        for answer in self.asked:
            answer.cancel()


@contextlib.contextmanager
def served(serving: Serving, name: str) -> Iterator[Pool]:
    """Replicas that begin with ``serving.model``, as the application ``name``, taken down at the end."""
    from ray import serve
    from ray.serve.llm import build_llm_deployment

    with serve_running(proxy_location="Disabled"):
        try:
            application = build_llm_deployment(config_of(serving, whole_checkpoints=True))
            with contextlib.closing(Pool(serve.run(application, name=name, route_prefix=None))) as pool:
                yield pool
        finally:
            serve.delete(name)  # only ours: a cluster may serve other applications
