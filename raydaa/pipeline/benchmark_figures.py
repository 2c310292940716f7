"""What is said of models by their responses to one benchmark, and by the verdicts on them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from raydaa.data.files import read_csv
from raydaa.data.rows import DataError
from raydaa.evaluation.arena_hard import ArenaScore, score_of_games
from raydaa.evaluation.diversity import Diversity, Grams
from raydaa.evaluation.figures import BenchmarkFigures, response_figures, with_diversity
from raydaa.evaluation.length_control import (
    ALIKE,
    FEWEST_OTHERS,
    LengthControlled,
    difficulty_of,
    length_controlled_win_rate,
    length_correlation,
)
from raydaa.evaluation.reliability import reliability
from raydaa.evaluation.win_rate import win_rate
from raydaa.outcomes import by_prompt
from raydaa.pipeline.benchmarks import Benchmark
from raydaa.pipeline.context import Context
from raydaa.pipeline.responses import GenerationWork
from raydaa.settings.evaluation import BenchmarkSettings
from raydaa.store.tables import GENERATIONS, ORDERS, VERDICTS, column, read


def measure(
    context: Context,
    benchmark: Benchmark,
    judged: Mapping[str, GenerationWork],
    verdicts: Mapping[str, Path],
    beside: Collection[str],
) -> dict[str, BenchmarkFigures]:
    """The figures of every model that answered, by name; ``beside`` are those that are no trials'."""
    answers = {name: GENERATIONS.read(work.folder) for name, work in judged.items()}
    texts = {name: column(table, "response") for name, table in answers.items()}
    of_words, of_pairs = _diversities(texts, 1), _diversities(texts, 2)
    figures = {}
    for name, table in answers.items():
        lengths = list(map(len, column(table, "tokens")))
        responses = response_figures(lengths, list(map(len, texts[name])), column(table, "cut"))
        figures[name] = BenchmarkFigures(
            answers=str(judged[name].folder.relative_to(context.folder)),
            responses=with_diversity(responses, of_words.get(name), of_pairs.get(name)),
        )
    if not verdicts:
        return figures
    tables = {name: VERDICTS.read(folder) for name, folder in verdicts.items()}
    verdict_figures = _Judged(context, benchmark, texts, tables, beside)
    for name, folder in verdicts.items():
        relative = str(folder.relative_to(context.folder))
        figures[name] = verdict_figures.figures(name, replace(figures[name], verdicts=relative))
    return figures


def _diversities(texts: Mapping[str, list[str]], n: int) -> dict[str, Diversity]:
    """Of all models that have n-grams, at the number of those that the shortest one has."""
    grams = {name: Grams(responses, n) for name, responses in texts.items()}
    size = min((one.total for one in grams.values() if one.total), default=0)
    return {name: one.diversity(size) for name, one in grams.items() if one.total}


class _Judged:
    """What verdicts on all models' responses say of each."""

    def __init__(
        self,
        context: Context,
        benchmark: Benchmark,
        texts: Mapping[str, list[str]],
        verdicts: Mapping[str, pa.Table],
        beside: Collection[str],
    ) -> None:
        self.beside = beside
        self.benchmark = benchmark
        self.texts = texts
        self.verdicts = verdicts
        prompts = column(read(benchmark.table), "prompt_id")
        self.outcomes = {name: _in_order(table, prompts) for name, table in verdicts.items()}
        self.against = texts[benchmark.baseline] if benchmark.fixed is None else list(benchmark.fixed)
        self.published = PublishedDifficulty(benchmark.table, benchmark.settings)
        self.draws = context.settings.evaluation.bootstrap_draws

    def figures(self, name: str, figures: BenchmarkFigures) -> BenchmarkFigures:
        """``figures`` with what verdicts add."""
        known = ~np.isnan(self.outcomes[name])
        if not known.any():
            return figures
        games = None if self.benchmark.judge is None else self.benchmark.judge.degree_games
        against_itself = name == self.benchmark.baseline  # there is no length to control
        return replace(
            figures,
            win_rate=win_rate(self.verdicts[name]["outcome"].to_numpy()),
            arena=None if games is None else arena_of(self.verdicts[name], games, self.draws),
            length_controlled=None if against_itself else self._length_controlled(name, known),
        )

    def _length_controlled(self, name: str, known: np.ndarray) -> LengthControlled:
        lengths, others = (np.array(list(map(len, texts)), float)[known] for texts in (self.texts[name], self.against))
        difficulty = self.published.difficulty
        whose = "published difficulty"
        if difficulty is None:
            whose = "difficulty by the other models"
            rest = [self.outcomes[other] for other in self._others(name)]
            difficulty = difficulty_of(np.array(rest)) if rest else None
        difficulty = None if difficulty is None else difficulty[known]
        rewrites = self.published.gamed(known)
        outcomes = self.outcomes[name][known]
        controlled = length_controlled_win_rate(outcomes, lengths, others, difficulty, rewrites)
        controlled = replace(controlled, variant=controlled.variant.replace("with difficulty", f"with {whose}"))
        if difficulty is None or self.published.difficulty is not None or rewrites is not None:
            return controlled
        of_others = np.array([list(map(len, self.texts[other])) for other in self._others(name)], float)[:, known]
        alike = length_correlation(lengths, of_others, others)
        if alike is None or alike <= ALIKE:
            return replace(controlled, alike=alike)
        alone = length_controlled_win_rate(outcomes, lengths, others)
        return replace(controlled, alike=alike, alone=alone.value, alone_error=alone.standard_error)

    def _others(self, name: str) -> list[str]:
        """The models by whose verdicts prompts are difficult: those judged beside the trials, where they are enough,
        for a sweep's models are alike; else all others."""
        others = [other for other in self.outcomes if other not in (name, self.benchmark.baseline)]
        beside = [other for other in others if other in self.beside]
        return beside if len(beside) >= FEWEST_OTHERS else others


def _in_order(verdicts: pa.Table, prompts: Sequence[str]) -> np.ndarray:
    """Outcomes of all prompts; NaN of one that nobody was asked about, or whose answer can't be read."""
    outcomes = by_prompt(verdicts)
    return np.array([outcomes.get(name, np.nan) for name in prompts], float)


def arena_of(verdicts: pa.Table, orders: int, draws: int) -> ArenaScore:
    """Every order that was asked for is a game; where nobody had to be asked, each would have been a tie."""
    games: list[tuple[str, float, float]] = []
    for row in verdicts.to_pylist():
        orders_asked = [order for order in ORDERS if row[f"{order}_weight"] is not None]
        for order in orders_asked:
            value = float("nan") if row[order] is None else row[order]
            games.append((row["prompt_id"], value, row[f"{order}_weight"]))
        if not orders_asked:
            games += [(row["prompt_id"], 0.5, 1.0)] * orders
    questions, outcomes, weights = zip(*games, strict=True)
    return score_of_games(questions, outcomes, weights, draws)


class PublishedDifficulty:
    """What a benchmark's authors say of its prompts, for length control, in the order of our table.

    DataError where a file of theirs can't be read, lacks a column, or says nothing of a prompt.
    """

    def __init__(self, prompts: Path, benchmark: BenchmarkSettings) -> None:
        self.rows = read(prompts)["row"].to_numpy() - 1  # they count from 0
        self.difficulty: np.ndarray | None = None
        self.rewrites: dict[str, np.ndarray] | None = None
        if benchmark.difficulty is not None:
            index, difficulty = _columns(benchmark.difficulty, "index", "instruction_difficulty").values()
            values = dict(zip(index.tolist(), difficulty.tolist(), strict=True))
            if missing := [row for row in self.rows.tolist() if row not in values]:
                raise DataError(f"{benchmark.difficulty}: says nothing of prompt {missing[0]}")
            self.difficulty = np.array([values[row] for row in self.rows.tolist()], float)
        if benchmark.gamed is not None:
            names = ("baseline_variant", "index", "len_1", "len_2", "pseudo_preference")
            self.rewrites = _columns(benchmark.gamed, *names)

    def gamed(self, known: np.ndarray) -> dict[str, np.ndarray] | None:
        """The baseline against its own rewrites, of the prompts that are ``known``."""
        if self.rewrites is None:
            return None
        places = {row: number for number, row in enumerate(self.rows[known])}
        kept = np.array([index in places for index in self.rewrites["index"]])
        rows = {name: values[kept] for name, values in self.rewrites.items()}
        return rows | {"index": np.array([places[index] for index in rows["index"]])}


def _columns(source: str, *names: str) -> dict[str, np.ndarray]:
    table = read_csv(source)
    for name in names:
        if name not in table.column_names:
            raise DataError(f"{source}: there is no column {name!r}; it has {', '.join(table.column_names)}")
    return {name: np.array(table[name].to_pylist()) for name in names}


def notes_on_judge(benchmark: Benchmark, verdicts: Iterable[Path]) -> list[str]:
    """What the report must say of who judged."""
    tables = [VERDICTS.read(folder) for folder in verdicts]
    every = pa.concat_tables(tables)
    notes: list[str] = []
    if left_out := sum(len(table) < benchmark.prompts for table in tables):
        notes.append(
            f"{benchmark.label}: {left_out} of {len(tables)} models were clearly behind and are judged on the first "
            f"prompts alone (evaluation.racing): their win rates are of those, and they come after all others."
        )
    prompts, first, second = (every[name].to_numpy() for name in ("prompt_id", *ORDERS))
    if unread := every["outcome"].null_count:
        heard = int((every["outcome"].is_null().to_numpy() & ~(np.isnan(first) & np.isnan(second))).sum())
        missing = f"{unread} of {len(every)} comparisons are left out: the judge's answers could not be read"
        alone = f", of {heard} in one order alone" if heard else ""
        notes.append(f"{benchmark.label}: {missing}{alone}.")
    consistency = reliability(prompts, first, second)
    if consistency is not None:
        share = f"{consistency.first_favoured:.1f} % [{consistency.low:.1f}, {consistency.high:.1f}]"
        bias = "which is a bias" if consistency.biased else "which shows no bias"
        notes.append(
            f"{benchmark.label}: the judge favours the response it sees first {share} of the time, {bias} by position; "
            f"in both orders it says the same of {consistency.consistent:.0f} % of the prompts. Both orders are "
            f"averaged: that takes no side, and draws win rates towards 50 %."
        )
    return notes
