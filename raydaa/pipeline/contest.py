"""Who is looked at after training, and on which prompts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from raydaa.generation.sample import Sampling
from raydaa.pipeline.benchmarks import Benchmark, benchmarks
from raydaa.pipeline.context import Context
from raydaa.pipeline.named_models import ModelRef
from raydaa.pipeline.prepared import prepared_data
from raydaa.pipeline.responses import GenerationWork, engine_of
from raydaa.pipeline.stages.sft import starts
from raydaa.pipeline.trials import trials_listed, trials_to_evaluate
from raydaa.results import TrialResults
from raydaa.settings.evaluation import SamplingSettings
from raydaa.store.artifacts import model_hash
from raydaa.store.output import Output
from raydaa.store.records import Trial
from raydaa.training.tokenizer import stops_of

FIELDS = set(SamplingSettings.model_fields)


@dataclass(frozen=True)
class EvaluatedModel:
    """A model whose responses are looked at: a finished trial, or a start beside them."""

    name: str  # a trial's key, or a start's name
    model: ModelRef
    start: ModelRef | None  # what its KL is measured against; None for a start itself

    @property
    def is_trial(self) -> bool:
        """Whether it was trained here."""
        return self.start is not None


@dataclass(frozen=True)
class Contest:
    """Who is looked at, on what: for each benchmark and contestant the responses to judge, and those KL is measured on
    (often the same)."""

    contestants: list[EvaluatedModel]
    benchmarks: list[Benchmark]
    judged: dict[str, dict[str, GenerationWork]]
    for_kl: dict[str, GenerationWork]
    second: Benchmark | None  # the first benchmark before the second judge, where there is one
    settings: dict[str, list[str]]  # keys of each setting's trials

    @property
    def judgements(self) -> list[tuple[Benchmark, dict[str, GenerationWork]]]:
        """Which responses come before whom."""
        benchmarks = self.benchmarks if self.second is None else [*self.benchmarks, self.second]
        return [(benchmark, self.judged[benchmark.name]) for benchmark in benchmarks if benchmark.judge is not None]

    @property
    def moved(self) -> dict[str, tuple[GenerationWork, ModelRef]]:
        """What has moved away from a start: its responses, and the start."""
        return {c.name: (self.for_kl[c.name], c.start) for c in self.contestants if c.start is not None}

    @property
    def generations(self) -> list[GenerationWork]:
        """All responses that are wanted, each once."""
        every = [*self.for_kl.values(), *(work for judged in self.judged.values() for work in judged.values())]
        return list({work.folder: work for work in every}.values())


def contest(context: Context) -> Contest:
    """Of a sweep that is over."""
    settings = context.settings.evaluation
    models = context.once(starts)
    trials = trials_to_evaluate(context.at, context.once(trials_listed), settings.judge_trials)
    contestants = [evaluated_trial(context, trial) for trial in trials]
    # What trials started from is judged as well: how far they came can be told then.
    started_from = dict.fromkeys(contestant.start.name for contestant in contestants if contestant.start is not None)
    beside = dict.fromkeys([*context.settings.models_beside, *settings.judged_models, *started_from])
    contestants += [EvaluatedModel(name, models[name], None) for name in beside]
    every = benchmarks(context)
    second = None if settings.second_judge is None else every[0].before(settings.second_judge)
    by_setting: dict[str, list[str]] = {}
    for trial in trials:
        if not trial.finalist:  # of these every verdict is wanted
            by_setting.setdefault(trial.point.setting, []).append(trial.key)
    return Contest(contestants, every, *wanted_responses(context, every, contestants), second, by_setting)


def methods_best(context: Context) -> set[str]:
    """Keys of the trials of every method's best setting, as the first benchmark had it when models were last measured;
    none before that."""
    evaluation = context.at.evaluation.read()
    if evaluation is None:
        return set()
    return best_keys(TrialResults.of(context.folder, context.once(trials_listed), evaluation, {}))


def best_keys(results: TrialResults) -> set[str]:
    """Of the trials of every method's best setting."""
    return {trial.key for best in results.best_of_each() for trial in results.trials_of(best)}


def evaluated_trial(context: Context, trial: Trial) -> EvaluatedModel:
    """A finished trial, also one whose model was removed."""
    folder = context.at.trial(trial.key)
    record = folder.record.read()
    removed = None if record is None else record.removed
    model = ModelRef(trial.label, folder.model, removed or model_hash(folder.model))
    return EvaluatedModel(trial.key, model, context.once(starts)[trial.point.init])


def wanted_responses(
    context: Context, every: Sequence[Benchmark], contestants: Sequence[EvaluatedModel]
) -> tuple[dict[str, dict[str, GenerationWork]], dict[str, GenerationWork]]:
    """For each benchmark and contestant the responses to judge, and those KL is measured on (often the same)."""
    settings = context.settings.evaluation
    prepared = context.once(prepared_data)
    judged: dict[str, dict[str, GenerationWork]] = {}
    best = context.once(methods_best) if len(every) > 1 else set()
    for number, b in enumerate(every):
        size = b.prompts if b.judge is not None else min(b.prompts, settings.kl_prompts)
        everybody = number == 0 or settings.further_benchmarks == "all"
        who = [c for c in contestants if everybody or not c.is_trial or c.name in best]
        judged[b.name] = {c.name: _work(context, c.model, b.sampling, b.table, b.key, size) for c in who}
    sampling = Sampling(**SamplingSettings(**context.settings.generation.model_dump(include=FIELDS)).model_dump())
    if settings.kl_sampling == "exact":
        sampling = replace(sampling, temperature=1.0, top_k=0, top_p=1.0)
    table = prepared.table("prompts")
    key = prepared.keys["prompts"]
    for benchmark in every:
        same = (benchmark.table, benchmark.sampling) == (table, sampling) and benchmark.judge is not None
        if same and len(judged[benchmark.name]) == len(contestants):
            return judged, judged[benchmark.name]
    size = min(prepared.rows["prompts"], settings.kl_prompts)
    return judged, {c.name: _work(context, c.model, sampling, table, key, size) for c in contestants}


def _work(
    context: Context, model: ModelRef, sampling: Sampling, table: Path, data: str, prompts: int
) -> GenerationWork:
    engine = engine_of(context.settings)
    depends_on = {
        "model": model.hash,
        "data": data,
        "prompts": prompts,
        "sampling": asdict(sampling),
        "stops": stops_of(context.once(prepared_data).tokenizer),
        "engine": engine.name,
        "batch_size": context.settings.generation.rows if engine.by_rows else None,
        "settings": context.settings.generation.key_fields(),
    }
    output = Output(context.at.generations, depends_on)
    return GenerationWork(model, sampling, table, prompts, output, context.once(prepared_data).tokenizer)
