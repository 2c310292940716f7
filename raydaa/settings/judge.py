"""What a study file may say about who judges."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from raydaa.settings.base import Gpus, Json, NonNegative, PositiveFloat, PositiveInt, Settings, wrong


class JudgePrice(Settings):
    """Of a million tokens, in any currency."""

    input: NonNegative
    output: NonNegative

    def of(self, sent: float, written: float) -> float:
        """What so many tokens cost."""
        return (self.input * sent + self.output * written) / 1e6


class JudgeSettings(Settings):
    kind: Literal["rule", "none", "openai", "served", "reward_model"] = "none"
    model: str | None = None  # as its endpoint calls it; served, reward_model: a folder or a hub id
    base_url: str | None = None  # of an endpoint that speaks OpenAI's protocol; None: OpenAI's own
    api_key_env: str | None = "OPENAI_API_KEY"  # name of the environment variable with the key; None: no key is asked
    prompt: Literal["alpaca_eval", "arena_hard", "tldr"] | None = None  # None: the benchmark's own, or alpaca_eval
    orders: Literal[1, 2] | None = None  # 1: one order, drawn by a hash; None: 2, but 1 for tldr, as published
    concurrency: PositiveInt = 8
    gpus: Gpus | None = None  # served: as generation.gpus; None: one, where there are any
    timeout_seconds: PositiveFloat = 120.0
    patience_minutes: PositiveFloat = 30.0  # of silence, before the study stops
    max_requests: PositiveInt | None = None  # of one run
    max_tokens: PositiveInt | None = None
    price: JudgePrice | None = None  # of an endpoint: with it plan, status and report tell what judging costs
    parameters: dict[str, Json] = Field(default_factory=dict)  # sent instead of ours; null: not sent
    function: str = "pocket"  # or module:function of your own, (prompt, response) → reward

    @model_validator(mode="after")
    def check(self, info: ValidationInfo) -> "JudgeSettings":
        if self.kind in ("openai", "served", "reward_model") and not self.model:
            named = "as its endpoint calls it" if self.kind == "openai" else "a folder or a hub id"
            raise wrong(f"name the judge, {named}", "model")
        if self.price is not None and self.kind != "openai":
            raise wrong("only a judge behind an endpoint is paid by its tokens", "price")
        if self.base_url is not None and ("@" in self.base_url or "?" in self.base_url):
            raise wrong("may hold a secret, and is printed; give the key by api_key_env", "base_url")
        if self.kind == "rule" and self.function != "pocket":
            if ":" not in self.function:
                raise wrong(f"{self.function!r} is not a rule; use pocket, or module:function", "function")
            if not (info.context or {}).get("allow_code"):
                raise wrong(f"{self.function!r} is code of your own; add --allow-code to run it", "function")
        return self

    @property
    def by_language(self) -> bool:
        """Whether the judge is a language model, asked with a prompt."""
        return self.kind in ("openai", "served")


def _kind_alone(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Judge = Annotated[JudgeSettings, BeforeValidator(_kind_alone)]
