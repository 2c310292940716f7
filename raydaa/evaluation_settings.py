"""What a study file may say about judging: benchmarks, judges, and what they are compared with."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, ValidationInfo, model_validator

from raydaa.search_settings import Names, Natural, NonNegative, PositiveFloat, PositiveInt, Settings, Share, wrong

HELD_OUT = "preferences.validation"  # as a source: the prompts of the held-out pairs
CHOSEN = "chosen"  # as a baseline: the response that stands beside each prompt
FILES = (".json", ".jsonl", ".jsonl.gz", ".parquet")


def finite(value: JsonValue) -> JsonValue:
    """``value``, which goes out as JSON or into a template; neither has a word for what is not finite."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise wrong("has a number that JSON can't say") from None
    return value


Json = Annotated[JsonValue, AfterValidator(finite)]


def share_or_whole(value: float, *, at: str = "") -> float:
    """A number of GPUs that one process, or several with one each, can have."""
    if value > 1 and value != int(value):
        raise wrong(f"{value:g} is neither a share of one GPU nor several whole ones", at)
    return value


Gpus = Annotated[float, Field(gt=0), AfterValidator(share_or_whole)]


class PromptSource(Settings):
    source: str = HELD_OUT
    split: str | None = "train"
    num: PositiveInt = 500
    columns: dict[str, str] = Field(default_factory=dict)


class SamplingSettings(Settings):
    """How tokens are drawn."""

    temperature: NonNegative = 0.9
    top_k: Natural = 40
    top_p: Share = 1.0
    max_new_tokens: PositiveInt = 256
    seed: Natural = 0


class GenerationSettings(SamplingSettings):
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    batch_size: Literal["auto"] | PositiveInt = "auto"  # auto: 64; on a GPU what vLLM finds room for
    batch_invariant: bool = False  # on GPU: tokens that do not depend on what else is generated, at some speed
    gpus: Gpus | None = None  # of one vLLM engine, which splits its model over several; None: as many as a worker has

    @property
    def rows(self) -> int:
        """How many prompts transformers generates for at a time."""
        return 64 if self.batch_size == "auto" else self.batch_size


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

# What a benchmark is where the study does not say otherwise; baselines and prompts as its authors publish them.
BENCHMARKS: dict[str, dict[str, Any]] = {
    "validation": {},
    "alpaca_eval": {
        "source": "hf://datasets/tatsu-lab/alpaca_eval/alpaca_eval_gpt4_baseline.json",
        "columns": {"prompt": "instruction", "response": "output"},
        "num": 805,
        "baseline": CHOSEN,
    },
    "arena_hard": {
        "source": "hf://datasets/lmarena-ai/arena-hard-auto/data/arena-hard-v0.1/question.jsonl",
        "num": 500,
        "baseline": "hf://datasets/lmarena-ai/arena-hard-auto/data/arena-hard-v0.1/model_answer/gpt-4-0314.jsonl",
        "temperature": 0.0,
    },
    "tldr": {"source": HELD_OUT, "num": 500, "baseline": CHOSEN},
}
OWN_PROMPTS = {"alpaca_eval": "alpaca_eval", "arena_hard": "arena_hard", "tldr": "tldr"}
OWN_ORDERS = {"tldr": 1}


class BenchmarkSettings(Settings):
    """Prompts that models are judged on. What is not said is the benchmark's own, then the study's."""

    name: Literal["validation", "alpaca_eval", "arena_hard", "tldr"]
    source: str | None = None  # of the prompts: a file, a hub id, or preferences.validation
    split: str | None = "train"
    columns: dict[str, str] | None = None
    num: PositiveInt | None = None
    baseline: str | None = None  # chosen (what stands beside each prompt), a model, or a file of responses
    temperature: NonNegative | None = None
    top_k: Natural | None = None
    top_p: Share | None = None
    max_new_tokens: PositiveInt | None = None
    judge: Judge | None = None
    difficulty: str | None = None  # CSV with the columns index and instruction_difficulty, for length control
    gamed: str | None = None  # CSV of the baseline against its own rewrites, for length control

    @model_validator(mode="before")
    @classmethod
    def complete(cls, value: Any) -> Any:
        value = {"name": value} if isinstance(value, str) else value
        if isinstance(value, dict) and isinstance(value.get("name"), str) and value["name"] in BENCHMARKS:
            taken = [key for key in ("source", "columns", "num") if value.get(key) is not None]
            if value["name"] == "validation" and taken:
                raise wrong(f"validation's prompts are data.prompts; write {taken[0]} there", taken[0])
            return {**BENCHMARKS[value["name"]], **value}
        return value

    @property
    def prompts(self) -> PromptSource | None:
        """Where its prompts come from; None: the study's own."""
        if self.source is None:
            return None
        given = {"num": self.num} if self.num is not None else {}
        return PromptSource(source=self.source, split=self.split, columns=self.columns or {}, **given)

    @property
    def group(self) -> str:
        """What its table of prompts is called."""
        return "prompts" if self.source is None else f"prompts.{self.name}"

    def sampling(self, generation: GenerationSettings) -> SamplingSettings:
        """How its prompts are answered."""
        said = {name: getattr(self, name) for name in SamplingSettings.model_fields if name != "seed"}
        drawn = {name: getattr(generation, name) for name in SamplingSettings.model_fields}
        return SamplingSettings(**drawn | {name: value for name, value in said.items() if value is not None})

    def judged_by(self, judge: JudgeSettings) -> JudgeSettings:
        """Its judge, where the study's is ``judge``."""
        judge = self.judge or judge
        own = OWN_PROMPTS.get(self.name, "alpaca_eval")
        known = {"prompt": judge.prompt or own, "orders": judge.orders or OWN_ORDERS.get(self.name, 2)}
        return judge.model_copy(update=known)


def _benchmarks(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


class HarnessSettings(Settings):
    """Tasks of the LM Evaluation Harness, for the best models and ``evaluation.models``."""

    tasks: Annotated[Names, Field(min_length=1)]
    include_path: str | None = None  # a folder with tasks of your own, which may hold code
    num_fewshot: Natural | None = None  # None: the task's own
    limit: PositiveInt | None = None  # documents of each task
    chat_template: bool = False
    max_length: PositiveInt | None = None  # of a task's prompt and answer; None: what the model allows
    concurrency: PositiveInt = 16

    @model_validator(mode="after")
    def check(self, info: ValidationInfo) -> "HarnessSettings":
        if self.include_path is not None and not (info.context or {}).get("allow_code"):
            raise wrong("tasks of your own may run code; add --allow-code", "include_path")
        return self


class EvaluationSettings(Settings):
    benchmarks: Annotated[tuple[BenchmarkSettings, ...], BeforeValidator(_benchmarks), Field(min_length=1)] = (
        BenchmarkSettings(name="validation"),
    )
    models: Names | None = None  # judged beside the trials; None: sft, where the study has it
    baseline: str = "sft"  # of the study's own prompts, and where a benchmark has none
    judge: Judge = JudgeSettings()
    second_judge: Judge | None = None  # judges the first benchmark as well; how far the two agree is reported
    lm_eval: HarnessSettings | None = None
    judge_trials: Literal["finished", "best_lr_per_beta", "best_per_method"] = "finished"
    kl_prompts: PositiveInt = 500
    kl_sampling: Literal["study", "exact"] = "study"
    bootstrap_draws: PositiveInt = 10_000

    @model_validator(mode="after")
    def check(self) -> "EvaluationSettings":
        names = [benchmark.name for benchmark in self.benchmarks]
        if len(set(names)) < len(names):
            raise wrong(f"{names!r} names a benchmark twice", "benchmarks")
        if self.second_judge is not None:
            kinds = self.second_judge.kind, self.benchmarks[0].judged_by(self.judge).kind
            if "none" in kinds:
                raise wrong(
                    "needs another judge of the first benchmark to agree with; neither may be none", "second_judge"
                )
        return self

    def baseline_of(self, benchmark: BenchmarkSettings) -> str:
        """What responses of ``benchmark`` are compared with."""
        return benchmark.baseline or self.baseline

    @property
    def judges(self) -> list[tuple[str, JudgeSettings]]:
        """Every judge with its place in the file."""
        found = [("evaluation.judge", self.judge)]
        if self.second_judge is not None:
            found.append(("evaluation.second_judge", self.second_judge))
        own = [(f"evaluation.benchmarks[{i}].judge", b.judge) for i, b in enumerate(self.benchmarks)]
        return found + [(place, judge) for place, judge in own if judge is not None]

    @property
    def judged_models(self) -> tuple[str, ...]:
        """Models that responses are compared with, each once; where nobody judges there is none."""
        judged = [b for b in self.benchmarks if b.judged_by(self.judge).kind != "none"]
        return tuple(name for name in dict.fromkeys(map(self.baseline_of, judged)) if is_model(name))


def is_model(baseline: str) -> bool:
    """Whether a baseline names a model whose responses are to be generated."""
    return baseline != CHOSEN and not baseline.partition("?")[0].endswith(FILES)
