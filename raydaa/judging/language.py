"""Asking a language model that judges, behind any endpoint that speaks OpenAI's chat protocol."""

import asyncio
import itertools
import json
import logging
import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from raydaa.errors import RaydaaError
from raydaa.judging.cache import Ruling, VerdictCache, ruling_key
from raydaa.judging.judge import JudgeError, JudgeUsage
from raydaa.judging.prompt import Answer, JudgePrompt, ParsedVerdict
from raydaa.judging.protocol import NoAnswerError, adapted, read_completion, sentence_of
from raydaa.threads import outside_event_loop

logger = logging.getLogger(__name__)

READINGS = 2  # an answer that can't be read is asked for once more
KEPT_EVERY = 100  # rulings, or after this many seconds: what a crash may cost
KEPT_SECONDS = 10.0
PAUSE_SECONDS = 5.0  # between two rounds of the client's own retries
ROUNDS = 10  # after which a game that alone gets no answer is left out
LATER = (408, 409, 429)  # statuses that another try may mend
ABOUT_THE_GAME = (400, 413, 422, 451)  # too long, or filtered: where other games are answered this one is left out
FILTERED = re.compile(
    r"flag|moderat|content|safety|polic", re.IGNORECASE
)  # a refusal of what was sent, not of who sent it
REFUSALS = 10  # after which, without one answer, it is not about the games
LOOPBACK = ("127.0.0.1", "localhost", "::1")


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
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What verdicts know the judge by."""
        where = self.name or f"{self.model} at {self.base_url or 'api.openai.com'}"
        return f"{where} {json.dumps(self.parameters, sort_keys=True)}" if self.parameters else where


class RefusedError(RaydaaError):
    """The judge refuses one game; the message is the server's own."""


@dataclass(frozen=True)
class Game:
    """Two responses to one prompt, in the order in which the judge sees them."""

    prompt: str
    first: str
    second: str


class JudgeClient:
    """Asks for what the cache lacks."""

    def __init__(
        self, endpoint: Endpoint, prompt: JudgePrompt, cache: VerdictCache, spent: JudgeUsage | None = None
    ) -> None:
        self.endpoint = endpoint
        self.asked = prompt
        self.cache = cache
        self.spent = spent or JudgeUsage()
        self.heard = time.monotonic()
        self.answered = False  # whether it has said anything at all, now or in the cache

    def rule(self, games: Sequence[Game], tell: Callable[[int, int], None] = lambda done, of: None) -> list[Ruling]:
        """A ruling for every game, in their order; ``tell`` hears how many are there.

        JudgeError, in one line without any key, where the judge refuses, is silent for too long or has used up its
        budget: the same call goes on from what was kept.
        """
        keys = [self.key(game) for game in games]
        missing = self.missing(games)
        done = len(set(keys)) - len(missing)
        tell(done, done + len(missing))
        if missing:
            self.answered = any(self.cache.rulings[key].outcome is not None for key in set(keys) - set(missing))
            asking = self._ask_all(missing, lambda more: tell(done + more, done + len(missing)))
            outside_event_loop(asyncio.run, asking)
        return [self.cache.rulings[key] for key in keys]

    def missing(self, games: Sequence[Game]) -> dict[str, Game]:
        """Games without a ruling, by key, each once."""
        by_key = {self.key(game): game for game in games}
        return {key: game for key, game in by_key.items() if key not in self.cache.rulings}

    def key(self, game: Game) -> str:
        """Of the game's ruling."""
        return ruling_key(game.prompt, game.first, game.second, self._where, self.asked.name, self.asked.version)

    async def _ask_all(self, missing: dict[str, Game], tell: Callable[[int], None]) -> None:
        waiting = iter(missing.items())
        fresh = _VerdictBuffer(self.cache)
        self.heard = time.monotonic()
        refused: list[Ruling] = []  # not kept before something was answered: it may not be about the games

        async def worker(client: Any) -> None:
            for key, game in waiting:
                try:
                    fresh.add(await self._ruling(client, key, game))
                except RefusedError as error:
                    refused.append(self._unread(key, str(error)))
                    if not self.answered and len(refused) >= min(REFUSALS, len(missing)):
                        raise JudgeError(f"{self._where} {error}") from None
                tell(fresh.count + len(refused))

        try:
            async with self._client() as client, asyncio.TaskGroup() as group:
                for _ in range(min(self.endpoint.concurrency, len(missing))):
                    group.create_task(worker(client))
        except ExceptionGroup as errors:  # of the workers: the first says it all
            raise errors.exceptions[0] from None
        finally:
            for ruling in refused if self.answered else ():
                fresh.add(ruling)
            fresh.keep()

    def _client(self) -> Any:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        key = None if self.endpoint.api_key_env is None else os.environ.get(self.endpoint.api_key_env)
        if self.endpoint.api_key_env is not None and not key:
            raise JudgeError(f"the environment variable {self.endpoint.api_key_env} is not set, or empty")
        # A proxy that the environment names knows nothing of what this machine serves.
        local = urlsplit(self.endpoint.base_url or "").hostname in LOOPBACK
        http_client = DefaultAsyncHttpxClient(trust_env=False) if local else None
        # Its retries wait longer each time, with jitter, or as long as Retry-After says.
        return AsyncOpenAI(
            api_key=key or "none",
            base_url=self.endpoint.base_url,
            timeout=self.endpoint.timeout,
            max_retries=4,
            http_client=http_client,
        )

    async def _ruling(self, client: Any, key: str, game: Game) -> Ruling:
        messages = self.asked.messages(game.prompt, game.first, game.second)
        reading: ParsedVerdict | None = None
        spent = (0, 0)
        answer = Answer("")
        for _ in range(READINGS):
            answer, used = await self._answer(client, messages)
            spent = (spent[0] + used[0], spent[1] + used[1])
            reading = self.asked.read(answer)
            if reading is not None:
                break
        if reading is None:
            return self._unread(key, answer.text, *spent)
        return self._ruled(key, reading.outcome, reading.weight, answer.text, *spent)

    def _unread(self, key: str, text: str, *spent: int) -> Ruling:
        return self._ruled(key, None, 0.0, text, *(spent or (0, 0)))

    def _ruled(self, key: str, outcome: float | None, weight: float, text: str, *spent: int) -> Ruling:
        whole = text.encode("utf-8", "replace").decode()  # half of a surrogate pair could not be stored
        return Ruling(key, self._where, self.asked.name, self.asked.version, outcome, weight, whole, *spent)

    async def _answer(self, client: Any, messages: list[dict[str, str]]) -> tuple[Answer, tuple[int, int]]:
        """One answer, however long it takes within the judge's patience; RefusedError where it refuses the game."""
        import openai

        began = time.monotonic()
        for attempt in itertools.count(1):
            self._check_budget()
            options = self._options()
            status: int | None
            try:
                self.spent.requests += 1
                reply = await client.chat.completions.with_raw_response.create(
                    model=self.endpoint.model, messages=messages, extra_body=options
                )
                answer, used = read_completion(reply.text)
                return self._heard(answer, used), used
            except openai.APIStatusError as error:
                status = error.status_code
                text = error.response.text
            except NoAnswerError as error:
                status = error.status
                text = error.text
            except (openai.APIConnectionError, ValueError) as error:
                status = None
                text = type(error).__name__
            if status in (None, *ABOUT_THE_GAME) and self._adapt(options, text):
                continue
            sentence = sentence_of(text, self._key) or (
                "a reply without an answer" if text.strip() else "an empty reply"
            )
            problem = f"status {status}: {sentence}" if status else sentence
            others_answered = self.heard > began
            if status is not None and status < 500 and status not in LATER:
                if status in ABOUT_THE_GAME or (status == 403 and self.answered and FILTERED.search(sentence)):
                    raise RefusedError(f"refused with {problem}")
                raise JudgeError(f"{self._where} refused with {problem}")
            if attempt >= ROUNDS and others_answered:
                return Answer(f"no answer ({problem})"), (0, 0)
            silent = time.monotonic() - self.heard
            if silent > self.endpoint.patience:
                raise JudgeError(f"{self._where} gave no answer for {silent:.0f} s ({problem})", passing=True)
            await asyncio.sleep(PAUSE_SECONDS * random.uniform(0.5, 1.5))
        raise AssertionError("unreachable")

    def _heard(self, answer: Answer, used: tuple[int, int]) -> Answer:
        self.spent.tokens += sum(used)
        self.heard = time.monotonic()
        self.answered = True
        if self.asked.by_token and not answer.first_token and answer.text:
            raise JudgeError(f"{self._where} gives no log-probabilities; use prompt arena_hard or tldr")
        return answer

    def _options(self) -> dict[str, Any]:
        """What is sent beside the model and the messages."""
        options: dict[str, Any] = {"temperature": 0.0}
        if self.asked.by_token:
            options |= {"logprobs": True, "top_logprobs": 5, "max_tokens": 1}
        if "max_completion_tokens" in self.endpoint.parameters:  # the same by its newer name
            options.pop("max_tokens", None)
        options |= self.endpoint.parameters
        for name, instead in self.spent.adapted.items():
            value = options.pop(name, None)
            if instead is not None and value is not None:
                options.setdefault(instead, value)
        return {name: value for name, value in options.items() if value is not None}

    def _adapt(self, options: dict[str, Any], text: str) -> bool:
        """Whether the judge refuses an option, which is then sent no more, or by the name that it wants."""
        replacement = adapted(options, text)
        if replacement is None:
            return False
        name, instead = replacement
        if name in ("logprobs", "top_logprobs") and self.asked.by_token:
            raise JudgeError(f"{self._where} gives no log-probabilities; use prompt arena_hard or tldr")
        if name in self.spent.adapted or instead in self.spent.adapted:  # it refuses what it asked for
            return False
        done = f"sent as {instead}" if instead else "left out"
        logger.warning("judge %s refuses %s: %s", self._where, name, done)
        self.spent.adapted[name] = instead
        return True

    @property
    def _key(self) -> str:
        return os.environ.get(self.endpoint.api_key_env or "", "")

    def _check_budget(self) -> None:
        for limit, used, name in (
            (self.endpoint.max_requests, self.spent.requests, "max_requests"),
            (self.endpoint.max_tokens, self.spent.tokens, "max_tokens"),
        ):
            if limit is not None and used >= limit:
                raise JudgeError(f"{name}: {limit} are used up", passing=True)

    @property
    def _where(self) -> str:
        return self.endpoint.title


class _VerdictBuffer:
    """Rulings that are not kept yet."""

    def __init__(self, cache: VerdictCache) -> None:
        self.cache = cache
        self.rulings: list[Ruling] = []
        self.count = 0
        self.kept_at = time.monotonic()

    def add(self, ruling: Ruling) -> None:
        self.rulings.append(ruling)
        self.count += 1
        if len(self.rulings) >= KEPT_EVERY or time.monotonic() - self.kept_at > KEPT_SECONDS:
            self.keep()

    def keep(self) -> None:
        self.cache.add(self.rulings)
        self.rulings = []
        self.kept_at = time.monotonic()
