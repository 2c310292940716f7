"""The stages after training: who is looked at, what they are asked, scored and judged by, and the figures."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from raydaa.evaluation.figures import BenchmarkFigures, BenchmarkInfo, Evaluation, ModelFigures
from raydaa.evaluation.kl import Divergence, kl_divergence
from raydaa.evaluation.reliability import kappa
from raydaa.generation.sample import Sampling
from raydaa.pipeline.benchmarks import Benchmark, benchmarks
from raydaa.pipeline.context import Context
from raydaa.pipeline.generate import Job, engine_of, generate, repeatable
from raydaa.pipeline.judge import judge
from raydaa.pipeline.measure import measure, notes_on_judge
from raydaa.pipeline.outputs import write_outputs, write_questions
from raydaa.pipeline.score import AGREEMENT, Scores, is_scored, score, scorers_gap
from raydaa.pipeline.stage import missing
from raydaa.pipeline.starts import Start
from raydaa.settings.evaluation import SamplingSettings
from raydaa.store.artifacts import key_of, model_hash
from raydaa.store.output import Output
from raydaa.store.records import PREFERENCE_LOSS, Point, Trial, TrialState
from raydaa.store.study_folder import StudyFolder
from raydaa.store.tables import GENERATIONS, SCORES, VERDICTS, column
from raydaa.training.tokenizer import stops_of

FIELDS = set(SamplingSettings.model_fields)


@dataclass(frozen=True)
class EvaluatedModel:
    """A model whose responses are looked at: a finished trial, or a start beside them."""

    name: str  # a trial's key, or a start's name
    model: Start
    start: Start | None  # what its KL is measured against; None for a start itself


@dataclass(frozen=True)
class Contest:
    """Who is looked at, on what: for each benchmark and contestant the responses to judge, and those KL is measured on
    (often the same)."""

    contestants: list[EvaluatedModel]
    benchmarks: list[Benchmark]
    judged: dict[str, dict[str, Job]]
    for_kl: dict[str, Job]
    second: Benchmark | None  # the first benchmark before the second judge, where there is one

    @property
    def judgements(self) -> list[tuple[Benchmark, dict[str, Job]]]:
        """Which responses come before whom."""
        benchmarks = self.benchmarks if self.second is None else [*self.benchmarks, self.second]
        return [(benchmark, self.judged[benchmark.name]) for benchmark in benchmarks]

    @property
    def moved(self) -> dict[str, tuple[Job, Start]]:
        """What has moved away from a start: its responses, and the start."""
        return {c.name: (self.for_kl[c.name], c.start) for c in self.contestants if c.start is not None}

    @property
    def jobs(self) -> list[Job]:
        """All responses that are wanted, each once."""
        every = [*self.for_kl.values(), *(job for jobs in self.judged.values() for job in jobs.values())]
        return list({job.folder: job for job in every}.values())


def contest(context: Context, starts: dict[str, Start], trials: Sequence[Trial]) -> Contest:
    """Of a sweep that is over."""
    settings = context.settings.evaluation
    contestants = [
        _contestant(context, starts, trial) for trial in trials_to_evaluate(context.at, trials, settings.judge_trials)
    ]
    # What trials started from is judged as well: how far they came can be told then.
    begun = dict.fromkeys(contestant.start.name for contestant in contestants if contestant.start is not None)
    beside = dict.fromkeys([*context.settings.models_beside, *settings.judged_models, *begun])
    contestants += [EvaluatedModel(name, starts[name], None) for name in beside]
    asked = benchmarks(context)
    second = None if settings.second_judge is None else asked[0].before(settings.second_judge)
    return Contest(contestants, asked, *_jobs(context, asked, contestants), second)


def evaluate(context: Context, starts: dict[str, Start], trials: Sequence[Trial]) -> None:
    """Everything the report says of quality and distance, as ``evaluation.json``."""
    wanted = contest(context, starts, trials)
    contestants, asked, judged, for_kl = wanted.contestants, wanted.benchmarks, wanted.judged, wanted.for_kl
    generate(context, wanted.jobs)
    gap = scorers_gap(context, [for_kl[c.name] for c in contestants])
    scores = score(context, wanted.moved, alone=gap > AGREEMENT)
    keys = {trial.key for trial in trials}
    distances = {c.name: _distance(context, c, for_kl, scores) for c in contestants}
    measured: dict[str, dict[str, BenchmarkFigures]] = {c.name: {} for c in contestants}
    notes = _notes(context, gap)
    infos = []
    for benchmark in asked:
        verdicts = judge(context, benchmark, judged[benchmark.name])
        if verdicts:
            notes += notes_on_judge(benchmark, verdicts.values())
        for name, figures in measure(context, benchmark, judged[benchmark.name], verdicts).items():
            measured[name][benchmark.name] = figures
        titles = {c.name: c.model.name for c in contestants}
        write_outputs(context.at.outputs, benchmark, judged[benchmark.name], titles)
        questions = write_questions(context.at, benchmark, judged[benchmark.name])
        about = BenchmarkInfo(benchmark.name, benchmark.label, benchmark.baseline, questions)
        infos.append(_with_price(about, benchmark, verdicts.values()))
    if wanted.second is not None:
        notes += _agreement(context, wanted.second, judged[wanted.second.name], measured)
    of_trials: dict[str, ModelFigures] = {}
    of_models: dict[str, ModelFigures] = {}
    for name, by_benchmark in measured.items():
        (of_trials if name in keys else of_models)[name] = ModelFigures(distances[name], by_benchmark)
    context.at.evaluation.write(Evaluation(tuple(infos), of_trials, of_models, tuple(notes)))


def unanswered(context: Context, starts: dict[str, Start], trials: Sequence[Trial]) -> list[Trial]:
    """Trials whose model was removed and has to answer."""
    looked = trials_to_evaluate(context.at, trials, context.settings.evaluation.judge_trials)
    gone = [trial for trial in looked if not context.at.trial(trial.key).model.exists()]
    contestants = [_contestant(context, starts, trial) for trial in gone]
    judged, for_kl = _jobs(context, benchmarks(context), contestants)
    asked = {t.key: [for_kl[t.key], *(jobs[t.key] for jobs in judged.values())] for t in gone}
    on_gpu = context.workers.gpus > 0  # where generation and the scorer always differ
    scored = {t.key: not on_gpu or is_scored(context, for_kl[t.key]) for t in gone}
    return [t for t in gone if not (scored[t.key] and not missing(asked[t.key]))]


def _contestant(context: Context, starts: dict[str, Start], trial: Trial) -> EvaluatedModel:
    folder = context.at.trial(trial.key)
    record = folder.record.read()
    removed = None if record is None else record.removed
    model = Start(trial.label, folder.model, removed or model_hash(folder.model))
    return EvaluatedModel(trial.key, model, starts[trial.point.init])


def trials_to_evaluate(folder: StudyFolder, trials: Sequence[Trial], rule: str) -> list[Trial]:
    """The finished trials that ``judge_trials`` names, in the study's order.

    ``best_lr_per_beta`` takes the lowest held-out preference loss among trials with the same objective and start,
    ``best_per_method`` that of a method and start.
    """
    finished = [trial for trial in trials if trial.state == TrialState.FINISHED]
    if rule == "finished":
        return finished
    best: dict[str, tuple[float, Trial]] = {}
    for trial in finished:
        value, group = folder.trial(trial.key).read_metrics()[-1][PREFERENCE_LOSS], group_of(trial.point, rule)
        if group not in best or value < best[group][0]:
            best[group] = value, trial
    keys = {trial.key for _, trial in best.values()}
    return [trial for trial in finished if trial.key in keys]


def group_of(point: Point, rule: str) -> str:
    """The trials among which ``judge_trials`` takes one."""
    if rule == "finished":
        return key_of(**asdict(point))
    group = key_of(init=point.init, method=point.method, fraction=point.fraction)
    if rule == "best_per_method":
        return group
    return key_of(group=group, parameters=point.parameters, weights=[point.sft_weight, point.align_weight])


def _jobs(
    context: Context, asked: Sequence[Benchmark], contestants: Sequence[EvaluatedModel]
) -> tuple[dict[str, dict[str, Job]], dict[str, Job]]:
    """For each benchmark and contestant the responses to judge, and those KL is measured on (often the same)."""
    settings, prepared = context.settings.evaluation, context.prepared
    judged = {}
    for b in asked:
        size = b.prompts if b.judge is not None else min(b.prompts, settings.kl_prompts)
        judged[b.name] = {c.name: _job(context, c.model, b.sampling, b.table, b.key, size) for c in contestants}
    sampling = Sampling(**SamplingSettings(**context.settings.generation.model_dump(include=FIELDS)).model_dump())
    if settings.kl_sampling == "exact":
        sampling = replace(sampling, temperature=1.0, top_k=0, top_p=1.0)
    table, key = prepared.table("prompts"), prepared.keys["prompts"]
    for benchmark in asked:
        if (benchmark.table, benchmark.sampling) == (table, sampling) and benchmark.judge is not None:
            return judged, judged[benchmark.name]
    size = min(prepared.rows["prompts"], settings.kl_prompts)
    return judged, {c.name: _job(context, c.model, sampling, table, key, size) for c in contestants}


def _job(context: Context, model: Start, sampling: Sampling, table: Path, data: str, prompts: int) -> Job:
    engine = engine_of(context.settings)
    depends_on = {
        "model": model.hash,
        "data": data,
        "prompts": prompts,
        "sampling": asdict(sampling),
        "stops": stops_of(context.prepared.tokenizer),
        "engine": engine.name,
        "batch_size": context.settings.generation.rows if engine.by_rows else None,
        "settings": context.settings.generation.key_fields(),
    }
    output = Output(context.at.generations, depends_on)
    return Job(model, sampling, table, prompts, output, context.prepared.tokenizer)


def _with_price(info: BenchmarkInfo, benchmark: Benchmark, verdicts: Iterable[Path]) -> BenchmarkInfo:
    """With what a judge read and wrote for these verdicts, whenever it was asked, and what that costs."""
    tables = [VERDICTS.read(folder) for folder in verdicts]
    sent, written = (
        sum(pc.sum(table[name]).as_py() or 0 for table in tables) for name in ("prompt_tokens", "completion_tokens")
    )
    cost = None if benchmark.judge is None else benchmark.judge.settings.cost(sent, written)
    return replace(info, sent=sent, written=written, cost=cost)


def _notes(context: Context, gap: float) -> list[str]:
    """What the report must say of the figures' making."""
    notes = []
    if not repeatable(context):
        notes.append(
            "Responses were generated on GPU without batch-invariant kernels (generation.batch_invariant): generated "
            "again, some would differ."
        )
    if gap > AGREEMENT:
        notes.append(
            f"Generation and scoring differ by {gap:.2g} nats per response in what they say of the same responses' "
            f"log-probability (mean over the first of one model): KL is of the scorer's alone."
        )
    return notes


def _agreement(
    context: Context, second: Benchmark, jobs: dict[str, Job], measured: dict[str, dict[str, BenchmarkFigures]]
) -> list[str]:
    """How far a second judge agrees with the first on the same responses."""
    folders = judge(context, second, jobs)
    pairs = [
        (context.folder / str(measured[name][second.name].verdicts), folder)
        for name, folder in folders.items()
        if name != second.baseline
    ]
    found = [tuple(VERDICTS.read(place)["outcome"].to_numpy() for place in pair) for pair in pairs]
    one, two = (np.concatenate(side) for side in zip(*found, strict=True))
    both = ~(np.isnan(one) | np.isnan(two))
    if not both.any():
        return []
    same = 100 * float((np.sign(one[both] - 0.5) == np.sign(two[both] - 0.5)).mean())
    return [
        f"A second judge ({second.judge_title}) says the same of {same:.0f} % of {int(both.sum())} comparisons "
        f"({second.name}; Cohen's kappa {kappa(one[both], two[both]):.2f}). The figures are the first judge's."
    ]


def _distance(
    context: Context, contestant: EvaluatedModel, for_kl: dict[str, Job], scores: dict[str, Scores]
) -> Divergence | None:
    """How far a contestant is from its start; a start itself is not measured."""
    settings, name = context.settings.evaluation, contestant.name
    if contestant.start is None:
        return None
    drawn = GENERATIONS.read(for_kl[name].folder).slice(0, settings.kl_prompts)
    sizes = np.array([len(tokens) for tokens in column(drawn, "tokens")])

    def scored(folder: Path) -> np.ndarray:
        return SCORES.read(folder).slice(0, settings.kl_prompts)["logp"].to_numpy()

    own = scores[name].own
    policy = drawn["logp"].to_numpy() if own is None else scored(own)
    return kl_divergence(policy, scored(scores[name].start), sizes, settings.bootstrap_draws)
