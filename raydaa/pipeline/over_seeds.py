"""Figures of settings over the seeds that each was trained with, and what choosing among them is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa

from raydaa.evaluation.comparison import compare
from raydaa.evaluation.figures import BenchmarkFigures, Evaluation, ModelFigures, ResponseFigures
from raydaa.evaluation.kl import divergence_over_seeds
from raydaa.evaluation.length_control import LengthControlled
from raydaa.evaluation.pareto import possible_front
from raydaa.evaluation.racing import on_all_prompts
from raydaa.evaluation.seeds import MeanInterval, SeedSpread, mean_interval, mean_over_seeds, seed_spread
from raydaa.evaluation.selection import optimism_of_choice
from raydaa.evaluation.win_rate import win_rate
from raydaa.outcomes import read_held_out, stack
from raydaa.pipeline.benchmark_figures import arena_of
from raydaa.pipeline.benchmarks import Benchmark
from raydaa.results import TrialResults
from raydaa.store.tables import VERDICTS
from raydaa.trial_row import TrialRow


@dataclass(frozen=True)
class ScoredResponses:
    """A model's: KL from its start and log-ratios of what was drawn, in nats, and tokens; ``(responses,)`` each."""

    kl: np.ndarray
    log_ratios: np.ndarray
    lengths: np.ndarray


def with_settings(
    results: TrialResults, benchmarks: Sequence[Benchmark], responses: Mapping[str, ScoredResponses], draws: int
) -> Evaluation:
    """The evaluation of ``results`` with what seeds and the choice among settings add to it."""
    finals = list(results.finals.values())
    evaluation = replace(
        results.evaluation,
        held_out=_held_out(results, results.settings),
        final_held_out=_held_out(results, finals),
    )
    settings = [setting for setting in results.settings if results.outcomes_of([setting]).size]
    if not settings:
        return evaluation
    outcomes = results.outcomes_of(settings)
    scored = [_stacked(results, setting, responses) for setting in settings]
    measured = [number for number, one in enumerate(scored) if one.kl.size]
    spread = seed_spread(outcomes)
    if spread is not None:
        with_responses = [settings[number] for number in measured]
        figures = _figures_of(results, with_responses, [scored[number] for number in measured], benchmarks, draws)
        evaluation = replace(evaluation, spread=spread, settings=figures)
    groups, among = _groups(results, settings)
    evaluation = replace(evaluation, optimism=optimism_of_choice(outcomes, groups, spread, among))
    evaluation = _with_finals(replace(results, evaluation=evaluation), finals, benchmarks, responses, draws)
    good = _as_good(replace(results, evaluation=evaluation), settings, outcomes)
    evaluation = replace(evaluation, as_good=_chosen(settings, good))
    if not measured:
        return evaluation
    means = on_all_prompts(mean_over_seeds(outcomes))[measured]
    distances = np.array([scored[number].kl.mean(axis=0) for number in measured])
    on_front = [settings[number] for number in measured]
    possible = possible_front(distances, means, [setting.init for setting in on_front])
    return replace(evaluation, possible_front=_chosen(on_front, possible))


def _with_finals(
    results: TrialResults,
    finals: Sequence[TrialRow],
    benchmarks: Sequence[Benchmark],
    responses: Mapping[str, ScoredResponses],
    draws: int,
) -> Evaluation:
    """With the figures of finalists over their fresh seeds, and what choosing among them is worth.

    Seeds' spread is of finalists alone: of each there are several.
    """
    known = [final for final in finals if results.outcomes_of([final]).size]
    if not known:
        return results.evaluation
    outcomes = results.outcomes_of(known)
    spread = seed_spread(outcomes) or results.evaluation.spread
    scored = [_stacked(results, final, responses) for final in known]
    measured = [number for number, one in enumerate(scored) if one.kl.size]
    figures = _figures_of(results, [known[n] for n in measured], [scored[n] for n in measured], benchmarks, draws)
    groups = {final.title: [number] for number, final in enumerate(known)}
    among = [final.title for final in known if results.keeps_limits(final)]
    optimism = optimism_of_choice(outcomes, groups, spread, among or None)
    return replace(results.evaluation, finals=figures, final_optimism=optimism.best, final_spread=spread)


def _groups(results: TrialResults, settings: Sequence[TrialRow]) -> tuple[dict[str, list[int]], list[str]]:
    """The numbers of the settings among which each method's best is chosen, and the methods among which the
    recommended one is: what has no chance for its limits, or for what was judged of it in a race, is left out."""
    groups: dict[str, list[int]] = {}
    for number, setting in enumerate(settings):
        groups.setdefault(setting.title, []).append(number)
    chances = {title: max(results.standing(settings[n]) for n in numbers) for title, numbers in groups.items()}
    for title, numbers in groups.items():
        groups[title] = [n for n in numbers if results.standing(settings[n]) == chances[title]]
    most = max(chances.values())
    return groups, [title for title, chance in chances.items() if chance == most]


def _held_out(results: TrialResults, settings: Sequence[TrialRow]) -> dict[str, MeanInterval]:
    """Each setting's preference loss on held-out pairs."""
    losses: dict[str, np.ndarray] = {}
    for setting in settings:
        by_pair = -stack([[read_held_out(results.at.trial(row.key)) for row in results.trials_of(setting)]])[0]
        if by_pair.size:
            losses[setting.trial.point.setting] = by_pair
    spread = seed_spread(losses.values())
    return {setting: mean_interval(by_pair, spread) for setting, by_pair in losses.items()}


def _chosen(settings: Sequence[TrialRow], chosen: Sequence[bool]) -> tuple[str, ...]:
    return tuple(setting.trial.point.setting for setting, is_in in zip(settings, chosen, strict=True) if is_in)


def _as_good(results: TrialResults, settings: Sequence[TrialRow], outcomes: np.ndarray) -> list[bool]:
    """Which settings the paired interval does not put below the recommended one."""
    best = results.best_of_each()[0].trial.point.setting
    names = [setting.trial.point.setting for setting in settings]
    first = names.index(best) if best in names else 0
    good: list[bool] = []
    for number in range(len(settings)):
        pair = outcomes[[number, first]]
        compared = compare(["this", "best"], pair, results.evaluation.spread, bounded=results.judged)
        good.append(number == first or not compared or compared[0].high >= 0)
    return good


def _figures_of(
    results: TrialResults,
    settings: Sequence[TrialRow],
    scored: Sequence[ScoredResponses],
    benchmarks: Sequence[Benchmark],
    draws: int,
) -> dict[str, ModelFigures]:
    """Of each setting over its seeds, by `Point.setting`."""
    kl_spread = seed_spread(one.kl for one in scored)
    ratio_spread = seed_spread(one.log_ratios for one in scored)
    spreads = {b.name: seed_spread(results.outcomes_of(settings, b.name)) for b in benchmarks}
    figures: dict[str, ModelFigures] = {}
    for setting, one in zip(settings, scored, strict=True):
        on_benchmarks: dict[str, BenchmarkFigures] = {}
        for benchmark in benchmarks:  # those after the first need not be for all
            if any(benchmark.name in row.benchmarks for row in results.trials_of(setting)):
                spread = spreads[benchmark.name]
                on_benchmarks[benchmark.name] = _on_benchmark(results, setting, benchmark, spread, draws)
        kl = divergence_over_seeds(**vars(one), spread=kl_spread, spread_of_ratios=ratio_spread)
        figures[setting.trial.point.setting] = ModelFigures(kl, on_benchmarks)
    return figures


def _stacked(results: TrialResults, setting: TrialRow, responses: Mapping[str, ScoredResponses]) -> ScoredResponses:
    """Those of a setting's trials, ``(seeds, responses)`` each."""
    seeds = [responses[row.key] for row in results.trials_of(setting) if row.key in responses]
    return ScoredResponses(
        kl=np.array([seed.kl for seed in seeds]),
        log_ratios=np.array([seed.log_ratios for seed in seeds]),
        lengths=np.array([seed.lengths for seed in seeds]),
    )


def _on_benchmark(
    results: TrialResults, setting: TrialRow, benchmark: Benchmark, spread: SeedSpread | None, draws: int
) -> BenchmarkFigures:
    """Means over the setting's seeds; places are those of the trial that is handed over."""
    rows = [row for row in results.trials_of(setting) if benchmark.name in row.benchmarks]
    figures = [row.benchmarks[benchmark.name] for row in rows]
    own = setting.trial.key
    handed_over = next((row.benchmarks[benchmark.name] for row in rows if row.key == own), figures[0])
    merged = replace(handed_over, responses=_mean_responses([one.responses for one in figures]))
    folders = [results.folder / one.verdicts for one in figures if one.verdicts is not None]
    if not folders:
        return merged
    tables = [VERDICTS.read(folder) for folder in folders]
    games = None if benchmark.judge is None else benchmark.judge.degree_games
    controlled = [one.length_controlled for one in figures if one.length_controlled is not None]
    return replace(
        merged,
        win_rate=win_rate(results.outcomes_of([setting], benchmark.name)[0], spread),
        arena=None if games is None else arena_of(pa.concat_tables(tables), games, draws),
        length_controlled=_mean_controlled(controlled) if controlled else None,
    )


def _mean_responses(figures: Sequence[ResponseFigures]) -> ResponseFigures:
    means: dict[str, float | None] = {}
    for known in fields(ResponseFigures):
        values = [value for one in figures if (value := getattr(one, known.name)) is not None]
        means[known.name] = float(np.mean(values)) if values else None
    return ResponseFigures(**means)  # type: ignore[arg-type]  # None only where it is None for all


def _mean_controlled(figures: Sequence[LengthControlled]) -> LengthControlled:
    """The mean of the seeds' estimates; its error holds what prompts (common to all) and seeds leave uncertain."""
    values = [one.value for one in figures]
    errors = [one.standard_error for one in figures]
    if any(value is None for value in values) or any(error is None for error in errors):
        refused = next(one for one in figures if one.value is None or one.standard_error is None)
        return replace(refused, value=None, standard_error=None, predicted_error=None, coefficients=None)
    value, error = _mean_and_error(values, errors)
    merged = replace(figures[0], value=value, standard_error=error, predicted_error=None, coefficients=None)
    alone = [one for one in figures if one.alone is not None]
    if not alone:
        return merged
    value, error = _mean_and_error([one.alone for one in alone], [one.alone_error or 0.0 for one in alone])
    alike = float(np.mean([one.alike for one in alone if one.alike is not None]))
    return replace(merged, alike=alike, alone=value, alone_error=error)


def _mean_and_error(values: Sequence[float | None], errors: Sequence[float | None]) -> tuple[float, float]:
    """Of the seeds' estimates, whose prompts are the same."""
    known = np.array(values, float)
    seeds = float(known.var(ddof=1)) / len(known) if len(known) > 1 else 0.0
    return float(known.mean()), float(np.sqrt(np.mean(np.array(errors, float) ** 2) + seeds))
