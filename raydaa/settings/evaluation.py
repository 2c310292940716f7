"""What a study file may say about generating and comparing: benchmarks, baselines, the harness."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from raydaa.settings.base import Gpus, Settings, wrong
from raydaa.settings.data import HELD_OUT, PromptSource
from raydaa.settings.judge import Judge, JudgeSettings, NoJudge, PromptName
from raydaa.settings.limits import Names, Natural, NonNegative, PositiveFloat, PositiveInt, Share

CHOSEN = "chosen"  # as a baseline: the response that stands beside each prompt
FILES = (".json", ".jsonl", ".jsonl.gz", ".parquet")


class SamplingSettings(Settings):
    """How tokens are drawn."""

    temperature: NonNegative = 0.9
    top_k: Natural = 40
    top_p: Share = 1.0
    max_new_tokens: PositiveInt = 256
    seed: Natural = 0


class GenerationSettings(SamplingSettings):
    # What is drawn how a benchmark may say otherwise, and engine and batch as they come out.
    not_in_keys: ClassVar[frozenset[str]] = frozenset({*SamplingSettings.model_fields, "engine", "batch_size", "gpus"})
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    batch_size: Literal["auto"] | PositiveInt = "auto"  # auto: 64; on a GPU what vLLM finds room for
    batch_invariant: bool = False  # on GPU: tokens that do not depend on what else is generated, at some speed
    gpus: Gpus | None = None  # of one vLLM engine, which splits its model over several; None: as many as a worker has

    def is_served(self, installed: bool) -> bool:
        """Whether vLLM generates, where it is ``installed`` or not."""
        return installed if self.engine == "auto" else self.engine == "vllm"

    @property
    def rows(self) -> int:
        """How many prompts transformers generates for at a time."""
        return 64 if self.batch_size == "auto" else self.batch_size


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
OWN_PROMPTS: dict[str, PromptName] = {"alpaca_eval": "alpaca_eval", "arena_hard": "arena_hard", "tldr": "tldr"}
OWN_ORDERS: dict[str, Literal[1, 2]] = {"tldr": 1}


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
        limit = {"num": self.num} if self.num is not None else {}
        return PromptSource(source=self.source, split=self.split, columns=self.columns or {}, **limit)

    @property
    def group(self) -> str:
        """What its table of prompts is called."""
        return "prompts" if self.source is None else f"prompts.{self.name}"

    def sampling(self, generation: GenerationSettings) -> SamplingSettings:
        """How its prompts are answered."""
        own = {name: getattr(self, name) for name in SamplingSettings.model_fields if name != "seed"}
        drawn = {name: getattr(generation, name) for name in SamplingSettings.model_fields}
        return SamplingSettings(**drawn | {name: value for name, value in own.items() if value is not None})

    def judged_by(self, judge: JudgeSettings) -> JudgeSettings:
        """Its judge, where the study's is ``judge``."""
        judge = self.judge or judge
        return judge.completed(OWN_PROMPTS.get(self.name, "alpaca_eval"), OWN_ORDERS.get(self.name, 2))


def _benchmarks(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


class HarnessSettings(Settings):
    """Tasks of the LM Evaluation Harness, for the best models and ``evaluation.models``."""

    not_in_keys: ClassVar[frozenset[str]] = frozenset({"include_path"})  # its content is
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


class ChooseSettings(Settings):
    """What a setting has to keep to be recommended."""

    max_kl: PositiveFloat | None = None  # nats per response from its start
    max_length_ratio: PositiveFloat | None = None  # of its responses' mean tokens to those of its start
    min_tasks: dict[str, float] = Field(default_factory=dict)  # by task of lm_eval: the least score in its first metric


class EvaluationSettings(Settings):
    benchmarks: Annotated[tuple[BenchmarkSettings, ...], BeforeValidator(_benchmarks), Field(min_length=1)] = (
        BenchmarkSettings(name="validation"),
    )
    models: Names | None = None  # judged beside the trials; None: sft, where the study has it
    baseline: str = "sft"  # of the study's own prompts, and where a benchmark has none
    judge: Judge = NoJudge()
    racing: bool = True  # a language model as judge leaves out what is clearly behind, block of prompts by block
    further_benchmarks: Literal["best", "all"] = "best"  # whose responses benchmarks after the first are for
    second_judge: Judge | None = None  # judges the first benchmark as well; how far the two agree is reported
    lm_eval: HarnessSettings | None = None
    judge_trials: Literal["finished", "best_lr_per_beta", "best_per_method"] = "finished"
    kl_prompts: PositiveInt = 500
    kl_sampling: Literal["study", "exact"] = "study"
    bootstrap_draws: PositiveInt = 10_000
    choose: ChooseSettings = ChooseSettings()

    @model_validator(mode="after")
    def check(self) -> "EvaluationSettings":
        tasks = () if self.lm_eval is None else self.lm_eval.tasks
        for task in self.choose.min_tasks:
            if task not in tasks:
                choices = ", ".join(tasks) or "none: name them in evaluation.lm_eval.tasks"
                raise wrong(f"{task!r} is not among the tasks that are asked ({choices})", "choose.min_tasks")
        names = [benchmark.name for benchmark in self.benchmarks]
        if len(set(names)) < len(names):
            raise wrong(f"{names!r} names a benchmark twice", "benchmarks")
        if self.second_judge is not None:
            first = self.benchmarks[0].judged_by(self.judge)
            if not (first.judges and self.second_judge.judges):
                message = "needs another judge of the first benchmark to agree with; neither may be none"
                raise wrong(message, "second_judge")
        return self

    def baseline_of(self, benchmark: BenchmarkSettings) -> str:
        """What responses of ``benchmark`` are compared with."""
        return benchmark.baseline or self.baseline

    @property
    def judges(self) -> list[tuple[str, JudgeSettings]]:
        """Every judge with its place in the file."""
        judges: list[tuple[str, JudgeSettings]] = [("evaluation.judge", self.judge)]
        if self.second_judge is not None:
            judges.append(("evaluation.second_judge", self.second_judge))
        own = [(f"evaluation.benchmarks[{i}].judge", b.judge) for i, b in enumerate(self.benchmarks)]
        return judges + [(setting, judge) for setting, judge in own if judge is not None]

    @property
    def judged_models(self) -> tuple[str, ...]:
        """Models that responses are compared with, each once; where nobody judges there is none."""
        judged = [b for b in self.benchmarks if b.judged_by(self.judge).judges]
        return tuple(name for name in dict.fromkeys(map(self.baseline_of, judged)) if is_model(name))


def is_model(baseline: str) -> bool:
    """Whether a baseline names a model whose responses are to be generated."""
    return baseline != CHOSEN and not baseline.partition("?")[0].endswith(FILES)
