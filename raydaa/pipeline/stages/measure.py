"""The stage measure: every figure of quality and distance that the report shows, made anew in each run."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from raydaa.evaluation.figures import BenchmarkFigures, BenchmarkInfo, Evaluation, ModelFigures
from raydaa.evaluation.kl import kl_divergence
from raydaa.evaluation.limits import Limits
from raydaa.evaluation.reliability import kappa
from raydaa.outcomes import by_prompt, read_outcomes
from raydaa.pipeline.benchmark_figures import measure, notes_on_judge
from raydaa.pipeline.benchmarks import Benchmark
from raydaa.pipeline.contest import Contest, best_keys, contest
from raydaa.pipeline.context import Context
from raydaa.pipeline.outputs import write_outputs, write_questions
from raydaa.pipeline.over_seeds import ScoredResponses, with_settings
from raydaa.pipeline.prune_models import reopen_missing
from raydaa.pipeline.responses import GenerationWork, repeatable
from raydaa.pipeline.stage import Count, Recorded, RecordStage
from raydaa.pipeline.stages import align
from raydaa.pipeline.stages.judge import verdicts_of
from raydaa.pipeline.stages.score import scores
from raydaa.pipeline.trials import search_key, trials_listed
from raydaa.results import TrialResults
from raydaa.store.records import FinalistsRecord
from raydaa.store.tables import GENERATIONS, SCORES, VERDICTS, column

AGREEMENT = 1e-4  # nats between two engines that are nothing but rounding
Figures = dict[str, dict[str, BenchmarkFigures]]  # by contestant and benchmark


def _about(context: Context) -> str:
    return f"figures of {len(context.once(contest).contestants)} models"


def _measure(context: Context) -> Recorded:
    """Write ``evaluation.json``; back to align, where a model is worth keeping and was removed."""
    wanted = context.once(contest)
    figures: Figures = {contestant.name: {} for contestant in wanted.contestants}
    notes = _notes(context, wanted)
    about = [_measure_benchmark(context, wanted, benchmark, figures, notes) for benchmark in wanted.benchmarks]
    if wanted.second is not None:
        notes += _agreement(context, wanted.second, wanted.judged[wanted.second.name], figures)
    responses = _scored_responses(context, wanted)
    draws = context.settings.evaluation.bootstrap_draws
    of_trials: dict[str, ModelFigures] = {}
    of_models: dict[str, ModelFigures] = {}
    for contestant in wanted.contestants:
        name = contestant.name
        scored = responses.get(name)
        divergence = None if scored is None else kl_divergence(**vars(scored), draws=draws)
        (of_trials if contestant.is_trial else of_models)[name] = ModelFigures(divergence, figures[name])
    notes += _heavy_tails(of_trials, {contestant.name: contestant.model.name for contestant in wanted.contestants})
    limits = Limits(**context.settings.evaluation.choose.model_dump())
    evaluation = Evaluation(tuple(about), of_trials, of_models, tuple(notes), limits=limits)
    results = TrialResults.of(context.folder, context.once(trials_listed), evaluation, {})
    context.at.evaluation.write(with_settings(results, wanted.benchmarks, responses, draws))
    measured = TrialResults.load(context.folder)
    if reopen_missing(context, measured.worth_keeping()):
        return Recorded("written", align.STAGE.name)
    if _has_other_finalists(context, measured):
        return Recorded("written; the methods' best are trained with fresh seeds", align.STAGE.name)
    if _has_other_best(context, wanted, measured):
        # By way of align: a model that was removed is trained again before it answers.
        return Recorded("written; the methods' best come before all other benchmarks", align.STAGE.name)
    return Recorded("written")


def _has_other_finalists(context: Context, measured: TrialResults) -> bool:
    """Whether the methods' best are to be trained with fresh seeds, and are not those that were; they are noted."""
    seeds = context.settings.search.fresh_seeds
    if not seeds:
        return False
    points = tuple(replace(row.trial.point, seed=seed) for row in measured.chosen() for seed in seeds)
    chosen = FinalistsRecord(search_key(context), points)
    if context.at.finalists.read() == chosen:
        return False
    context.at.finalists.write(chosen)
    return True


def _has_other_best(context: Context, wanted: Contest, measured: TrialResults) -> bool:
    """Whether benchmarks after the first were not those of every method's best, which they are for."""
    if len(wanted.benchmarks) == 1 or context.settings.evaluation.further_benchmarks == "all":
        return False
    trials = {contestant.name for contestant in wanted.contestants if contestant.is_trial}
    return best_keys(measured) & trials != wanted.judged[wanted.benchmarks[-1].name].keys() & trials


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
    beside = {contestant.name for contestant in wanted.contestants if not contestant.is_trial}
    for name, measured in measure(context, benchmark, judged, verdicts, beside).items():
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


def _notes(context: Context, wanted: Contest) -> list[str]:
    """What the report must say of the figures' making."""
    notes: list[str] = []
    gap = _engines_gap(context, wanted)
    if not repeatable(context):
        notes.append(
            "Responses were generated on GPU without batch-invariant kernels (generation.batch_invariant): generated "
            "again, some would differ."
        )
    if gap > AGREEMENT:
        notes.append(
            f"Generation and scoring differ by {gap:.2g} nats per response in what they say of the same responses' "
            f"log-probability (the largest mean of a model): KL is of the scorer's alone."
        )
    return notes


def _engines_gap(context: Context, wanted: Contest) -> float:
    """How far the log-probabilities that came with a model's responses are from the scorer's: the largest mean, in
    nats."""
    gaps = [0.0]
    for name, folder in context.once(scores).items():
        scored = SCORES.read(folder)["logp"].to_numpy()
        generated = GENERATIONS.read(wanted.for_kl[name].folder)["logp"].to_numpy()
        gaps.append(float(np.abs(generated - scored).mean()))
    return max(gaps)


def _heavy_tails(of_trials: Mapping[str, ModelFigures], titles: Mapping[str, str]) -> list[str]:
    """Which KL one response makes so much of that no interval can be trusted."""
    notes: list[str] = []
    for name, figures in of_trials.items():
        if figures.kl is not None and figures.kl.heavy:
            notes.append(
                f"One response makes {100 * figures.kl.largest:.0f} % of the KL of {titles[name]}: its interval may "
                f"be too narrow."
            )
    return notes


def _agreement(context: Context, second: Benchmark, judged: dict[str, GenerationWork], figures: Figures) -> list[str]:
    """How far a second judge agrees with the first on the same responses."""
    pairs: list[tuple[float, float]] = []
    for name, folder in verdicts_of(context, second, judged).items():
        if name == second.baseline:
            continue
        of_first = read_outcomes(context.folder, figures[name][second.name])
        for prompt, other in by_prompt(VERDICTS.read(folder)).items():
            if prompt in of_first:  # in a race one is not asked about all
                pairs.append((of_first[prompt], other))
    one, two = np.array(pairs, float).reshape(-1, 2).T
    both = ~(np.isnan(one) | np.isnan(two))
    if not both.any():
        return []
    same = 100 * float((np.sign(one[both] - 0.5) == np.sign(two[both] - 0.5)).mean())
    return [
        f"A second judge ({second.judge_title}) says the same of {same:.0f} % of {int(both.sum())} comparisons "
        f"({second.name}; Cohen's kappa {kappa(one[both], two[both]):.2f}). The figures are the first judge's."
    ]


def _scored_responses(context: Context, wanted: Contest) -> dict[str, ScoredResponses]:
    """Of every model that has moved from a start."""
    size = context.settings.evaluation.kl_prompts
    responses: dict[str, ScoredResponses] = {}
    for name, folder in context.once(scores).items():
        drawn = GENERATIONS.read(wanted.for_kl[name].folder).slice(0, size)
        scored = SCORES.read(folder).slice(0, size)
        log_ratios = scored["logp"].to_numpy() - scored["start_logp"].to_numpy()
        lengths = np.array([len(tokens) for tokens in column(drawn, "tokens")])
        responses[name] = ScoredResponses(scored["kl"].to_numpy(), log_ratios, lengths)
    return responses


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
