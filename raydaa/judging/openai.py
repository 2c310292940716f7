"""A language model as the judge, behind an endpoint of somebody's."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from raydaa.compat.imports import is_installed
from raydaa.errors import InputError
from raydaa.evaluation.racing import Race
from raydaa.judging import judge
from raydaa.judging.cache import Ruling, VerdictCache
from raydaa.judging.judge import Comparisons, JudgeResources, JudgeUsage, Rows
from raydaa.judging.language import Endpoint, Game, JudgeClient
from raydaa.judging.prompt import JudgePrompt, judge_prompt
from raydaa.settings.judge import LanguageJudgeSettings, OpenAIJudge
from raydaa.store.artifacts import key_of
from raydaa.store.tables import ORDERS

VERSION = 2  # of what is made of the answers in both orders; raise it when the same answers give another verdict
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

    def judge(self, comparisons: Comparisons, resources: JudgeResources, race: Race | None = None) -> dict[str, Rows]:
        spent = resources.spending.setdefault(self._account, JudgeUsage())
        client = JudgeClient(self._endpoint(), self.prompt, VerdictCache(resources.verdicts), spent)
        rows: dict[str, Rows] = {name: [] for name in comparisons.responses}
        # Without a race there is one block, of everything.
        race = race or Race(len(comparisons.prompts), {}, list(comparisons.responses), block=len(comparisons.prompts))
        with contextlib.ExitStack() as reaching:
            reached = False
            while race.block:
                part = comparisons.part(race.block, race.models)
                games = self._games(part, resources.seed)
                if not reached and client.missing(games):
                    reaching.enter_context(self._reached(client))
                    reached = True
                block = self._block(client, part, games, resources, race)
                for name, verdicts in block.items():
                    rows[name] += verdicts
                race.tell({name: [_number(row["outcome"]) for row in verdicts] for name, verdicts in block.items()})
        return rows

    def _block(
        self, client: JudgeClient, part: Comparisons, games: Sequence[Game], resources: JudgeResources, race: Race
    ) -> dict[str, Rows]:
        """Verdicts on a part of all comparisons."""
        of_all = "" if len(race.block) == race.prompts else f", prompts to {race.block.stop}/{race.prompts}"
        rulings = client.rule(games, lambda done, of: resources.tell(done, of, f"{done}/{of} comparisons{of_all}"))
        ruled = {(game.first, game.second, game.prompt): ruling for game, ruling in zip(games, rulings, strict=True)}
        return {
            name: [_verdict(*game, ruled) for game in part.games(responses)]
            for name, responses in part.responses.items()
        }

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
    def _reached(self, client: JudgeClient) -> Iterator[None]:
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
        prompt = {"prompt": self.prompt.name, "version": self.prompt.version}
        return {**self.settings.key_fields(), **prompt, "verdicts": VERSION}


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


def _number(outcome: float | None) -> float:
    return float("nan") if outcome is None else outcome


def _verdict(
    prompt: dict[str, Any], response: str, other: str, ruled: dict[tuple[str, str, str], Ruling]
) -> dict[str, Any]:
    """Both orders averaged, or the one that was asked for; none where one of them can't be read, for an order alone
    leans to the response that is shown there. Equal responses tie."""
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
    orders = [order for order in ORDERS if order in row]
    if orders and all(row[order] is not None for order in orders):
        row["outcome"] = sum(row[order] for order in orders) / len(orders)
    return row
