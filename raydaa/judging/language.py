"""A language model as the judge, behind any endpoint that speaks OpenAI's chat protocol."""

import asyncio
import itertools
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from raydaa.judging.cache import Ruling, VerdictCache, ruling_key
from raydaa.judging.prompt import Answer, JudgePrompt, Reading

READINGS = 2  # an answer that can't be read is asked for once more
KEPT_EVERY = 100  # rulings, or after this many seconds: what a crash may cost
KEPT_SECONDS = 10.0
PAUSE_SECONDS = 5.0  # between two rounds of the client's own retries
ROUNDS = 10  # after which a game that alone gets no answer is left out
LATER = (408, 409, 429)  # statuses that another try may mend
ABOUT_THE_GAME = (400, 413, 422)  # too long, or filtered: where other games are answered this one is left out


class JudgeError(Exception):
    """The judge can't go on; what it said so far is kept."""


@dataclass(frozen=True)
class Endpoint:
    """Where a judge answers, and how much it may cost.

    ``name`` is what its verdicts know it by, where that is not model and address. ``patience`` is how many seconds it
    may be silent before the stage ends; the limits are of one run's own requests.
    """

    model: str
    base_url: str | None = None
    name: str | None = None
    api_key_env: str | None = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout: float = 120.0
    patience: float = 1800.0
    max_requests: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class Game:
    """Two responses to one prompt, in the order in which the judge sees them."""

    prompt: str
    first: str
    second: str


@dataclass
class Spent:
    """What one judge was asked for in one run; several `LanguageJudge`s may share it."""

    requests: int = 0
    tokens: int = 0


class LanguageJudge:
    """Asks for what the cache lacks."""

    def __init__(self, endpoint: Endpoint, asked: JudgePrompt, cache: VerdictCache, spent: Spent | None = None) -> None:
        self.endpoint, self.asked, self.cache = endpoint, asked, cache
        self.spent = spent or Spent()
        self.heard = time.monotonic()

    def rule(self, games: Sequence[Game], told: Callable[[int, int], None] = lambda done, of: None) -> list[Ruling]:
        """A ruling for every game, in their order; ``told`` hears how many are there.

        JudgeError, in one line without any key, where the judge refuses, is silent for too long or has used up its
        budget: the same call goes on from what was kept.
        """
        keys = [self.key(game) for game in games]
        missing = self.missing(games)
        done = len(set(keys)) - len(missing)
        told(done, done + len(missing))
        if missing:
            asyncio.run(self._ask_all(missing, lambda more: told(done + more, done + len(missing))))
        return [self.cache.rulings[key] for key in keys]

    def missing(self, games: Sequence[Game]) -> dict[str, Game]:
        """Games without a ruling, by key, each once."""
        found = {self.key(game): game for game in games}
        return {key: game for key, game in found.items() if key not in self.cache.rulings}

    def key(self, game: Game) -> str:
        """Of the game's ruling."""
        return ruling_key(game.prompt, game.first, game.second, self._where, self.asked.name, self.asked.version)

    async def _ask_all(self, missing: dict[str, Game], told: Callable[[int], None]) -> None:
        waiting, fresh = iter(missing.items()), _Fresh(self.cache)
        self.heard = time.monotonic()

        async def worker(client: Any) -> None:
            for key, game in waiting:
                fresh.add(await self._ruling(client, key, game))
                told(fresh.count)

        try:
            async with self._client() as client, asyncio.TaskGroup() as group:
                for _ in range(min(self.endpoint.concurrency, len(missing))):
                    group.create_task(worker(client))
        except ExceptionGroup as errors:  # of the workers: the first says it all
            raise errors.exceptions[0] from None
        finally:
            fresh.keep()

    def _client(self) -> Any:
        from openai import AsyncOpenAI

        key = None if self.endpoint.api_key_env is None else os.environ.get(self.endpoint.api_key_env)
        if self.endpoint.api_key_env is not None and not key:
            raise JudgeError(f"the environment variable {self.endpoint.api_key_env} is not set, or empty")
        # Its retries wait longer each time, with jitter, or as long as Retry-After says.
        return AsyncOpenAI(
            api_key=key or "none", base_url=self.endpoint.base_url, timeout=self.endpoint.timeout, max_retries=4
        )

    async def _ruling(self, client: Any, key: str, game: Game) -> Ruling:
        messages = self.asked.messages(game.prompt, game.first, game.second)
        reading: Reading | None = None
        spent, answer = (0, 0), Answer("")
        for _ in range(READINGS):
            answer, used = await self._answer(client, messages)
            spent = (spent[0] + used[0], spent[1] + used[1])
            reading = self.asked.read(answer)
            if reading is not None:
                break
        outcome, weight = (None, 0.0) if reading is None else (reading.outcome, reading.weight)
        names = (self._where, self.asked.name, self.asked.version)
        text = answer.text.encode("utf-8", "replace").decode()  # half of a surrogate pair could not be stored
        return Ruling(key, *names, outcome, weight, text, *spent)

    async def _answer(self, client: Any, messages: list[dict[str, str]]) -> tuple[Answer, tuple[int, int]]:
        """One answer, however long it takes within the judge's patience."""
        import openai

        options: dict[str, Any] = {"model": self.endpoint.model, "messages": messages, "temperature": 0.0}
        if self.asked.by_token:
            options |= {"logprobs": True, "top_logprobs": 5, "max_tokens": 1}
        begun = time.monotonic()
        for attempt in itertools.count(1):
            self._check_budget()
            try:
                self.spent.requests += 1
                completion = await client.chat.completions.create(**options)
                answer, used = _understood(completion)
                self.spent.tokens += sum(used)
                self.heard = time.monotonic()
                if self.asked.by_token and not answer.first_token:
                    raise JudgeError(f"{self._where} gives no log-probabilities; use prompt arena_hard or tldr")
                return answer, used
            except (openai.APIConnectionError, openai.APIStatusError, ValueError) as error:
                status = getattr(error, "status_code", None)
                others_answered = self.heard > begun
                if status in ABOUT_THE_GAME and (others_answered or self.spent.tokens):
                    return Answer(f"refused with status {status}"), (0, 0)
                if status is not None and status < 500 and status not in LATER:
                    raise JudgeError(f"{self._where} refused with status {status}") from None
                if attempt >= ROUNDS and others_answered:
                    return Answer(f"no answer ({_kind(error)})"), (0, 0)
                silent = time.monotonic() - self.heard
                if silent > self.endpoint.patience:
                    raise JudgeError(f"{self._where} gave no answer for {silent:.0f} s ({_kind(error)})") from None
            await asyncio.sleep(PAUSE_SECONDS * random.uniform(0.5, 1.5))
        raise AssertionError("unreachable")

    def _check_budget(self) -> None:
        for limit, used, name in (
            (self.endpoint.max_requests, self.spent.requests, "max_requests"),
            (self.endpoint.max_tokens, self.spent.tokens, "max_tokens"),
        ):
            if limit is not None and used >= limit:
                raise JudgeError(f"{name}: {limit} are used up")

    @property
    def _where(self) -> str:
        return self.endpoint.name or f"{self.endpoint.model} at {self.endpoint.base_url or 'api.openai.com'}"


class _Fresh:
    """Rulings that are not kept yet."""

    def __init__(self, cache: VerdictCache) -> None:
        self.cache, self.rulings, self.count = cache, list[Ruling](), 0
        self.kept_at = time.monotonic()

    def add(self, ruling: Ruling) -> None:
        self.rulings.append(ruling)
        self.count += 1
        if len(self.rulings) >= KEPT_EVERY or time.monotonic() - self.kept_at > KEPT_SECONDS:
            self.keep()

    def keep(self) -> None:
        self.cache.add(self.rulings)
        self.rulings, self.kept_at = [], time.monotonic()


def _understood(completion: Any) -> tuple[Answer, tuple[int, int]]:
    """What an answer holds; ValueError where it is none in OpenAI's sense."""
    try:
        choice = completion.choices[0]
        content = choice.logprobs.content if choice.logprobs is not None else None
        likeliest = content[0].top_logprobs if content else ()
        usage = completion.usage
        used = (int(usage.prompt_tokens), int(usage.completion_tokens)) if usage is not None else (0, 0)
        return Answer(choice.message.content or "", [(each.token, float(each.logprob)) for each in likeliest]), used
    except (AttributeError, TypeError, IndexError, KeyError) as error:
        raise ValueError(f"not a chat completion: {type(error).__name__}") from None


def _kind(error: Exception) -> str:
    """What went wrong, without what was sent."""
    status = getattr(error, "status_code", None)
    return f"status {status}" if status else type(error).__name__
