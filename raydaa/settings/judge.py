"""What a study file may say about who judges: a class for each kind, with what means something to it and no more."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from raydaa.settings.base import Gpus, Json, Settings, wrong
from raydaa.settings.limits import NonNegative, PositiveFloat, PositiveInt

PromptName = Literal["alpaca_eval", "arena_hard", "tldr"]


class JudgePrice(Settings):
    """Of a million tokens, in any currency."""

    input: NonNegative
    output: NonNegative

    def of(self, sent: float, written: float) -> float:
        """What so many tokens cost."""
        return (self.input * sent + self.output * written) / 1e6


class JudgeSettings(Settings):
    """What every judge's settings answer. ``kind`` names the module of `raydaa.judging` with the judge itself."""

    judges: ClassVar[bool] = True  # whether there is a judge at all
    paid_by_token: ClassVar[bool] = False
    kind: str

    @property
    def of_pocket_world(self) -> bool:
        """Whether it can judge nothing but the pocket world's responses."""
        return False

    @property
    def gpus_of_server(self) -> float | None:
        """GPUs that it asks for in order to be served."""
        return None

    def completed(self, prompt: PromptName, orders: Literal[1, 2]) -> "JudgeSettings":
        """With what a benchmark uses of its own wherever the study says nothing."""
        return self

    def cost(self, sent: float, written: float) -> float | None:
        """What so many tokens cost, where it has a price."""
        return None


class NoJudge(JudgeSettings):
    """Nobody judges: trials are ranked by their loss on held-out preferences."""

    judges: ClassVar[bool] = False
    kind: Literal["none"] = "none"


class RuleJudge(JudgeSettings):
    """A function of prompt and response gives each response a reward."""

    kind: Literal["rule"]
    function: str = "pocket"  # or module:function of your own, (prompt, response) → reward

    @model_validator(mode="after")
    def check(self, info: ValidationInfo) -> "RuleJudge":
        if not self.of_pocket_world:
            if ":" not in self.function:
                raise wrong(f"{self.function!r} is not a rule; use pocket, or module:function", "function")
            if not (info.context or {}).get("allow_code"):
                raise wrong(f"{self.function!r} is code of your own; add --allow-code to run it", "function")
        return self

    @property
    def of_pocket_world(self) -> bool:
        return self.function == "pocket"


def _named(value: Any, what: str) -> Any:
    if isinstance(value, dict) and not value.get("model"):
        raise wrong(f"name the judge, {what}", "model")
    return value


class RewardModelJudge(JudgeSettings):
    """A sequence classifier gives each response a reward."""

    kind: Literal["reward_model"]
    model: str  # a folder or a hub id

    @model_validator(mode="before")
    @classmethod
    def check_named(cls, value: Any) -> Any:
        return _named(value, "a folder or a hub id")


class LanguageJudgeSettings(JudgeSettings):
    """A language model is asked which of two responses is better."""

    not_in_keys: ClassVar[frozenset[str]] = frozenset(
        {"kind", "concurrency", "timeout_seconds", "patience_minutes", "max_requests", "max_tokens"}
    )
    model: str
    prompt: PromptName | None = None  # None: the benchmark's own, or alpaca_eval
    orders: Literal[1, 2] | None = None  # 1: one order, drawn by a hash; None: 2, but 1 for tldr, as published
    concurrency: PositiveInt = 8
    timeout_seconds: PositiveFloat = 120.0
    patience_minutes: PositiveFloat = 30.0  # of silence, before the study stops
    max_requests: PositiveInt | None = None  # of one run
    max_tokens: PositiveInt | None = None
    parameters: dict[str, Json] = Field(default_factory=dict)  # sent instead of ours; null: not sent

    @property
    def prompt_name(self) -> PromptName:
        """What it is asked with, also where no benchmark has said."""
        return self.prompt or "alpaca_eval"

    @property
    def num_orders(self) -> Literal[1, 2]:
        """In how many orders each two responses are shown, also where no benchmark has said."""
        return self.orders or 2

    def completed(self, prompt: PromptName, orders: Literal[1, 2]) -> JudgeSettings:
        return self.model_copy(update={"prompt": self.prompt or prompt, "orders": self.orders or orders})


class OpenAIJudge(LanguageJudgeSettings):
    """One behind an endpoint that speaks OpenAI's protocol; ``model`` is as the endpoint calls it."""

    paid_by_token: ClassVar[bool] = True
    not_in_keys: ClassVar[frozenset[str]] = LanguageJudgeSettings.not_in_keys | {"api_key_env", "price"}
    kind: Literal["openai"]
    base_url: str | None = None  # None: OpenAI's own
    api_key_env: str | None = "OPENAI_API_KEY"  # name of the environment variable with the key; None: no key is asked
    price: JudgePrice | None = None  # with it plan, status and report tell what judging costs

    @model_validator(mode="before")
    @classmethod
    def check_named(cls, value: Any) -> Any:
        return _named(value, "as its endpoint calls it")

    @model_validator(mode="after")
    def check(self) -> "OpenAIJudge":
        if self.base_url is not None and ("@" in self.base_url or "?" in self.base_url):
            raise wrong("may hold a secret, and is printed; give the key by api_key_env", "base_url")
        return self

    def cost(self, sent: float, written: float) -> float | None:
        return None if self.price is None else self.price.of(sent, written)


class ServedJudge(LanguageJudgeSettings):
    """One that is served here; ``model`` is a folder or a hub id."""

    not_in_keys: ClassVar[frozenset[str]] = LanguageJudgeSettings.not_in_keys | {
        "model",
        "gpus",
    }  # known by its weights
    kind: Literal["served"]
    gpus: Gpus | None = None  # as generation.gpus; None: one, where there are any

    @model_validator(mode="before")
    @classmethod
    def check_named(cls, value: Any) -> Any:
        return _named(value, "a folder or a hub id")

    @property
    def gpus_of_server(self) -> float | None:
        return self.gpus


def _kind_alone(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Judge = Annotated[
    Annotated[NoJudge | RuleJudge | RewardModelJudge | OpenAIJudge | ServedJudge, Field(discriminator="kind")],
    BeforeValidator(_kind_alone),
]
