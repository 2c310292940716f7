"""The stage measure: every figure of quality and distance that the report shows, made anew in each run."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from raydaa.evaluation.figures import BenchmarkFigures, BenchmarkInfo, Evaluation, ModelFigures
from raydaa.evaluation.kl import Divergence, kl_divergence
from raydaa.evaluation.reliability import kappa
from raydaa.pipeline.benchmark_figures import measure, notes_on_judge
from raydaa.pipeline.benchmarks import Benchmark
from raydaa.pipeline.contest import Contest, EvaluatedModel, contest
from raydaa.pipeline.context import Context
from raydaa.pipeline.outputs import write_outputs, write_questions
from raydaa.pipeline.prune_models import reopen_missing
from raydaa.pipeline.responses import GenerationWork, repeatable
from raydaa.pipeline.stage import Count, Recorded, RecordStage
from raydaa.pipeline.stages import align
from raydaa.pipeline.stages.judge import verdicts_of
from raydaa.pipeline.stages.score import AGREEMENT, Scores, scorers_gap, scores
from raydaa.results import TrialResults
from raydaa.store.tables import GENERATIONS, SCORES, VERDICTS, column

Figures = dict[str, dict[str, BenchmarkFigures]]  # by contestant and benchmark


def _about(context: Context) -> str:
    return f"figures of {len(context.once(contest).contestants)} models"


def _measure(context: Context) -> Recorded:
    """Write ``evaluation.json``; back to align, where a model is worth keeping and was removed."""
    wanted = context.once(contest)
    figures: Figures = {contestant.name: {} for contestant in wanted.contestants}
    notes = _notes(context)
    about = [_measure_benchmark(context, wanted, benchmark, figures, notes) for benchmark in wanted.benchmarks]
    if wanted.second is not None:
        notes += _agreement(context, wanted.second, wanted.judged[wanted.second.name], figures)
    distances = context.once(scores)
    of_trials: dict[str, ModelFigures] = {}
    of_models: dict[str, ModelFigures] = {}
    for contestant in wanted.contestants:
        divergence = _distance(context, contestant, wanted.for_kl[contestant.name], distances)
        model_figures = ModelFigures(divergence, figures[contestant.name])
        (of_trials if contestant.is_trial else of_models)[contestant.name] = model_figures
    context.at.evaluation.write(Evaluation(tuple(about), of_trials, of_models, tuple(notes)))
    reopened = reopen_missing(context, TrialResults.load(context.folder).worth_keeping())
    return Recorded("written", align.STAGE.name if reopened else None)


def _look(context: Context) -> Count:
    return Count(int(context.at.evaluation.exists()), 1)


def _measure_benchmark(
    context: Context, wanted: Contest, benchmark: Benchmark, figures: Figures, notes: list[str]
) -> BenchmarkInfo:
    """Add to ``figures`` and ``notes`` what one benchmark says, and write what others read of it."""
    judged = wanted.judged[benchmark.name]
    verdicts = verdicts_of(context, benchmark, judged)
    if verdicts:
        notes += notes_on_judge(benchmark, verdicts.values())
    for name, measured in measure(context, benchmark, judged, verdicts).items():
        figures[name][benchmark.name] = measured
    titles = {contestant.name: contestant.model.name for contestant in wanted.contestants}
    write_outputs(context.at.outputs, benchmark, judged, titles)
    questions = write_questions(context.at, benchmark, judged)
    about = BenchmarkInfo(benchmark.name, benchmark.label, benchmark.baseline, questions)
    return _with_price(about, benchmark, verdicts.values())


def _with_price(info: BenchmarkInfo, benchmark: Benchmark, verdicts: Iterable[Path]) -> BenchmarkInfo:
    """With what a judge read and wrote for these verdicts, whenever it was asked, and what that costs."""
    tables = [VERDICTS.read(folder) for folder in verdicts]
    sent = sum(pc.sum(table["prompt_tokens"]).as_py() or 0 for table in tables)
    written = sum(pc.sum(table["completion_tokens"]).as_py() or 0 for table in tables)
    cost = None if benchmark.judge is None else benchmark.judge.settings.cost(sent, written)
    return replace(info, sent=sent, written=written, cost=cost)


def _notes(context: Context) -> list[str]:
    """What the report must say of the figures' making."""
    notes: list[str] = []
    gap = context.once(scorers_gap)
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


def _agreement(context: Context, second: Benchmark, judged: dict[str, GenerationWork], figures: Figures) -> list[str]:
    """How far a second judge agrees with the first on the same responses."""
    outcomes: list[tuple[np.ndarray, np.ndarray]] = []
    for name, folder in verdicts_of(context, second, judged).items():
        if name == second.baseline:
            continue
        first_folder = context.folder / str(figures[name][second.name].verdicts)
        first, other = (VERDICTS.read(verdicts)["outcome"].to_numpy() for verdicts in (first_folder, folder))
        outcomes.append((first, other))
    one, two = (np.concatenate(side) for side in zip(*outcomes, strict=True))
    both = ~(np.isnan(one) | np.isnan(two))
    if not both.any():
        return []
    same = 100 * float((np.sign(one[both] - 0.5) == np.sign(two[both] - 0.5)).mean())
    return [
        f"A second judge ({second.judge_title}) says the same of {same:.0f} % of {int(both.sum())} comparisons "
        f"({second.name}; Cohen's kappa {kappa(one[both], two[both]):.2f}). The figures are the first judge's."
    ]


def _distance(
    context: Context, contestant: EvaluatedModel, responses: GenerationWork, distances: dict[str, Scores]
) -> Divergence | None:
    """How far a contestant is from its start; a start itself is not measured."""
    settings = context.settings.evaluation
    if contestant.start is None:
        return None
    drawn = GENERATIONS.read(responses.folder).slice(0, settings.kl_prompts)
    sizes = np.array([len(tokens) for tokens in column(drawn, "tokens")])

    def scored(folder: Path) -> np.ndarray:
        return SCORES.read(folder).slice(0, settings.kl_prompts)["logp"].to_numpy()

    folders = distances[contestant.name]
    policy = drawn["logp"].to_numpy() if folders.own is None else scored(folders.own)
    return kl_divergence(policy, scored(folders.start), sizes, settings.bootstrap_draws)


STAGE = RecordStage(
    name="measure",
    writes="figures of quality and distance, with their intervals",
    depends_on="responses, scores, verdicts",
    engine="this process",
    after=("score", "judge"),
    about=_about,
    record=_measure,
    look=_look,
)
