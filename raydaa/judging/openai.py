"""A language model as the judge, behind an endpoint of somebody's."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from raydaa.compat.imports import is_installed
from raydaa.errors import InputError
from raydaa.judging import judge
from raydaa.judging.cache import Ruling, VerdictCache
from raydaa.judging.judge import Comparisons, JudgeResources, JudgeUsage, Rows
from raydaa.judging.language import Endpoint, Game, JudgeClient
from raydaa.judging.prompt import JudgePrompt, judge_prompt
from raydaa.settings.judge import LanguageJudgeSettings, OpenAIJudge
from raydaa.store.artifacts import key_of
from raydaa.store.tables import ORDERS

Asked = TypeVar("Asked", bound=LanguageJudgeSettings)


class LanguageJudge(judge.Judge[Asked], Generic[Asked]):
    """Asked for each comparison in one order or both; what it said before is not asked again."""

    by_language = True

    @property
    def prompt(self) -> JudgePrompt:
        """What it is asked."""
        return judge_prompt(self.settings.prompt_name)

    @property
    def title(self) -> str:  # never the benchmark's own judge, for our prompts are not its own
        return f"judge {self._name}, prompt {self.prompt.name} v{self.prompt.version}"

    @property
    def degree_games(self) -> int | None:
        return self.settings.num_orders if self.prompt.by_degree else None

    @property
    def _name(self) -> str:
        return Path(self.settings.model).name

    def check(self, setting: str, on_gpus: bool) -> None:
        if not is_installed("openai"):
            raise InputError(f"{setting}: openai is not installed; pip install 'raydaa[judge]'")

    def judge(self, comparisons: Comparisons, resources: JudgeResources) -> dict[str, Rows]:
        cache = VerdictCache(resources.verdicts)
        endpoint = self._endpoint()
        spent = resources.spending.setdefault(self._account, JudgeUsage())
        client = JudgeClient(endpoint, self.prompt, cache, spent)
        games = self._games(comparisons, resources.seed)
        with self._reached(client, games):
            rulings = client.rule(games, lambda done, of: resources.tell(done, of, f"{done}/{of} comparisons"))
        ruled = {(game.first, game.second, game.prompt): ruling for game, ruling in zip(games, rulings, strict=True)}
        rows = {}
        for name, responses in comparisons.responses.items():
            rows[name] = [_verdict(*game, ruled) for game in comparisons.games(responses)]
        return rows

    @property
    def _account(self) -> str:
        """Whose limits are shared."""
        return f"{self.settings.kind} {self.settings.model}"

    def _endpoint(self) -> Endpoint:
        settings = self.settings
        return Endpoint(
            model=settings.model,
            api_key_env=None,
            concurrency=settings.concurrency,
            timeout=settings.timeout_seconds,
            patience=60 * settings.patience_minutes,
            max_requests=settings.max_requests,
            max_tokens=settings.max_tokens,
            parameters=settings.parameters,
        )

    @contextlib.contextmanager
    def _reached(self, client: JudgeClient, games: Sequence[Game]) -> Iterator[None]:
        """While the client can ask."""
        yield

    def _games(self, comparisons: Comparisons, seed: int) -> list[Game]:
        games: list[Game] = []
        for responses in comparisons.responses.values():
            for row, response, other in comparisons.games(responses):
                if response == other:  # a tie that nobody needs to be asked for
                    continue
                both = [Game(row["question"], response, other), Game(row["question"], other, response)]
                if self.settings.num_orders == 1:
                    both = [both[int(key_of(seed=seed, prompt=row["prompt_id"]), 16) % 2]]
                games += both
        return games

    def identity(self) -> dict[str, Any]:
        return {**self.settings.key_fields(), "prompt": self.prompt.name, "version": self.prompt.version}


class Judge(LanguageJudge[OpenAIJudge]):
    """The model and its address are the endpoint's; what it is paid for is limited by the study."""

    @property
    def _name(self) -> str:
        return self.settings.model

    def check(self, setting: str, on_gpus: bool) -> None:
        super().check(setting, on_gpus)
        key = self.settings.api_key_env
        if key is not None and not os.environ.get(key):
            raise InputError(f"{setting}.api_key_env: {key} is not set, or empty")

    @property
    def _account(self) -> str:
        return f"{super()._account} {self.settings.base_url}"

    def _endpoint(self) -> Endpoint:
        return replace(super()._endpoint(), base_url=self.settings.base_url, api_key_env=self.settings.api_key_env)


def _verdict(
    prompt: dict[str, Any], response: str, other: str, ruled: dict[tuple[str, str, str], Ruling]
) -> dict[str, Any]:
    """Both orders averaged; one alone where the other was not asked for or can't be read. Equal responses tie."""
    question = prompt["question"]
    row: dict[str, Any] = {"prompt_id": prompt["prompt_id"], "outcome": 0.5 if response == other else None}
    rulings = ruled.get((response, other, question)), ruled.get((other, response, question))
    for order, ruling in zip(ORDERS, rulings, strict=True):
        if ruling is None:
            continue
        outcome = ruling.outcome if order == "first" or ruling.outcome is None else 1 - ruling.outcome
        row |= {order: outcome, f"{order}_weight": ruling.weight, f"{order}_comment": ruling.text}
        for name in ("prompt_tokens", "completion_tokens"):
            row[name] = row.get(name, 0) + getattr(ruling, name)
    heard = [row[order] for order in ORDERS if row.get(order) is not None]
    return row | ({"outcome": sum(heard) / len(heard)} if heard else {})
