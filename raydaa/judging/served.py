"""A language model as the judge that is served here, by vLLM, while there is something to ask it."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from raydaa.errors import InputError
from raydaa.generation.serving import available, missing
from raydaa.judging.judge import LocalModel
from raydaa.judging.language import Endpoint, JudgeClient
from raydaa.judging.openai import LanguageJudge
from raydaa.settings.judge import ServedJudge
from raydaa.store.models import local_model


class Judge(LocalModel, LanguageJudge[ServedJudge]):
    """Its verdicts are known by its weights, wherever they lie."""

    def identity(self) -> dict[str, Any]:
        return {"served": self._weights, **super().identity()}

    def check(self, setting: str, on_gpus: bool) -> None:
        if not available():
            raise InputError(f"{setting}: {missing(on_gpus)}")
        super().check(setting, on_gpus)
        local_model(self.settings.model)

    def _endpoint(self) -> Endpoint:
        return replace(super()._endpoint(), name=f"{self._folder.name} {self._weights}")

    @contextlib.contextmanager
    def _reached(self, client: JudgeClient) -> Iterator[None]:
        from raydaa.generation.server import serve

        settings = self.settings
        with serve(self._folder, max_num_seqs=settings.concurrency, gpus=settings.gpus) as server:
            client.endpoint = replace(client.endpoint, model=server.model, base_url=server.url)
            yield
