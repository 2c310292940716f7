"""What every kind of judge is. A new kind is a class of settings and a module of the same name with its `Judge`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from raydaa.errors import RaydaaError
from raydaa.evaluation.racing import Race
from raydaa.settings.judge import JudgeSettings
from raydaa.store.models import local_model, model_identity
from raydaa.training.workers import Workers

Rows = list[dict[str, Any]]
Chosen = TypeVar("Chosen", bound=JudgeSettings)


class JudgeError(RaydaaError):
    """The judge can't go on; what it said so far is kept. ``passing``: another run may find it going on."""

    def __init__(self, message: str, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


@dataclass(frozen=True)
class Comparisons:
    """What is compared: to each prompt the baseline's response, and every contestant's."""

    prompts: Rows
    baseline: list[str]
    responses: dict[str, list[str]]

    @property
    def ids(self) -> list[str]:
        """Of the prompts."""
        return [row["prompt_id"] for row in self.prompts]

    @property
    def questions(self) -> list[str]:
        """What was asked, as one text each."""
        return [row["question"] for row in self.prompts]

    def part(self, prompts: range, names: Sequence[str]) -> "Comparisons":
        """Of some prompts and contestants alone."""
        chosen = slice(prompts.start, prompts.stop)
        responses = {name: self.responses[name][chosen] for name in names}
        return Comparisons(self.prompts[chosen], self.baseline[chosen], responses)

    def games(self, responses: Sequence[str]) -> list[tuple[dict[str, Any], str, str]]:
        """Prompt, the contestant's response and the baseline's."""
        return list(zip(self.prompts, responses, self.baseline, strict=True))


@dataclass
class JudgeUsage:
    """What one endpoint was asked for in one run, and which options it refuses (with what it wants in their place);
    several judges may share it."""

    requests: int = 0
    tokens: int = 0
    adapted: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class JudgeResources:
    """What a judge may use: folders for what it says, worker processes, and the ledger of the run's spending.

    ``tell`` hears how much of how much is done, and of what.
    """

    verdicts: Path  # paid verdicts, which studies share
    rewards: Path
    seed: int
    precision: str  # of a model on the workers
    trust_remote_code: bool
    workers: Workers
    spending: dict[str, JudgeUsage]
    tell: Callable[[int, int, str], None]


class Judge(ABC, Generic[Chosen]):
    """One kind of judge, with its settings."""

    by_language: ClassVar[bool] = False  # whether a language model is asked with a prompt, at its price

    def __init__(self, settings: Chosen) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def title(self) -> str:
        """What a score says of who gave it."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that a verdict depends on, responses aside."""

    @abstractmethod
    def check(self, setting: str, on_gpus: bool) -> None:
        """InputError where it can be known that it could not judge; ``setting`` names it."""

    @abstractmethod
    def judge(self, comparisons: Comparisons, resources: JudgeResources, race: Race | None = None) -> dict[str, Rows]:
        """A verdict on each of every contestant's responses, in the prompts' order; JudgeError where it can't go on.

        With ``race`` a judge whose verdicts cost something leaves out what the race does.
        """

    @property
    def degree_games(self) -> int | None:
        """In how many orders it is asked by how much one response is better; None where it only says which."""
        return None


def judge_of(settings: JudgeSettings) -> Judge[Any]:
    """The judge of these settings, which must be some judge's."""
    judge: Judge[Any] = import_module(f"raydaa.judging.{settings.kind}").Judge(settings)
    return judge


class LocalModel:
    """Of judges that are models in a folder here: where it lies, and what its weights are known by."""

    settings: Any

    @cached_property
    def _folder(self) -> Path:
        return local_model(self.settings.model)

    @cached_property
    def _weights(self) -> str:
        return model_identity(self._folder)
