"""What is said of models by their responses to one benchmark, and by the verdicts on them."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raydaa.data.files import DataError, read_csv
from raydaa.evaluation.arena_hard import ArenaScore, score_of_games
from raydaa.evaluation.diversity import distinct_n
from raydaa.evaluation.length_control import difficulty_of, length_controlled_win_rate
from raydaa.evaluation.reliability import reliability
from raydaa.evaluation.win_rate import win_rate
from raydaa.pipeline.benchmarks import Benchmark
from raydaa.pipeline.context import Context
from raydaa.pipeline.generation import Job
from raydaa.settings.evaluation import BenchmarkSettings
from raydaa.store.tables import read

ORDERS = ("first", "second")


def measure(
    context: Context, benchmark: Benchmark, jobs: Mapping[str, Job], verdicts: Mapping[str, Path]
) -> dict[str, dict[str, Any]]:
    """The figures of every model that answered, by name; what was not measured is left out."""
    responses = {name: read(job.folder / "responses.parquet") for name, job in jobs.items()}
    found = {name: _responses(context, jobs[name], table) for name, table in responses.items()}
    if not verdicts:
        return found
    texts = {name: table["response"].to_pylist() for name, table in responses.items()}
    tables = {name: read(folder / "verdicts.parquet") for name, folder in verdicts.items()}
    outcomes = {name: table["outcome"].to_numpy() for name, table in tables.items()}
    against = texts[benchmark.baseline] if benchmark.fixed is None else list(benchmark.fixed)
    published = Published(benchmark.table, benchmark.settings)
    draws = context.settings.evaluation.bootstrap_draws
    for name, mine in outcomes.items():
        row, known = found[name], ~np.isnan(mine)
        row["verdicts"] = str(verdicts[name].relative_to(context.folder))
        if not known.any():
            continue
        row["win_rate"] = asdict(win_rate(mine[known], draws))
        games = None if benchmark.judge is None else benchmark.judge.degree_games
        if games is not None:
            row["arena"] = asdict(arena_of(tables[name], games, draws))
        if name != benchmark.baseline:  # against itself there is no length to control
            lengths = [np.array(list(map(len, each)), float)[known] for each in (texts[name], against)]
            difficulty = published.difficulty
            if difficulty is None:
                others = [outcomes[other] for other in outcomes if other not in (name, benchmark.baseline)]
                difficulty = difficulty_of(np.array(others)) if others else None
            difficulty = None if difficulty is None else difficulty[known]
            rewrites = published.gamed(known)
            controlled = length_controlled_win_rate(mine[known], lengths[0], lengths[1], difficulty, rewrites)
            whose = "published difficulty" if published.difficulty is not None else "difficulty by the other models"
            variant = controlled.variant.replace("with difficulty", f"with {whose}")
            row["length_controlled"] = asdict(replace(controlled, variant=variant))
    return found


def _responses(context: Context, job: Job, table: pa.Table) -> dict[str, Any]:
    texts = table["response"].to_pylist()
    return {
        "responses": str(job.folder.relative_to(context.folder)),
        "mean_length": float(np.mean([len(tokens) for tokens in table["tokens"].to_pylist()])),
        "mean_characters": float(np.mean(list(map(len, texts)))),
        "distinct_1": distinct_n(texts, 1),
        "distinct_2": distinct_n(texts, 2),
        "cut_share": float(np.mean(table["cut"].to_pylist())),
    }


def arena_of(verdicts: pa.Table, orders: int, draws: int) -> ArenaScore:
    """Every order that was asked for is a game; where nobody had to be asked, each would have been a tie."""
    games = list[tuple[str, float, float]]()
    for row in verdicts.to_pylist():
        asked = [order for order in ORDERS if row[f"{order}_weight"] is not None]
        for order in asked:
            value = float("nan") if row[order] is None else row[order]
            games.append((row["prompt_id"], value, row[f"{order}_weight"]))
        if not asked:
            games += [(row["prompt_id"], 0.5, 1.0)] * orders
    questions, outcomes, weights = zip(*games, strict=True)
    return score_of_games(questions, outcomes, weights, draws)


class Published:
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
        places = {row: place for place, row in enumerate(self.rows[known])}
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
    every = pa.concat_tables([read(folder / "verdicts.parquet") for folder in verdicts])
    notes = []
    if unread := every["outcome"].null_count:
        left_out = f"{unread} of {len(every)} comparisons are left out: the judge's answers could not be read."
        notes.append(f"{benchmark.label}: {left_out}")
    found = reliability(*(every[name].to_numpy() for name in ("prompt_id", *ORDERS)))
    if found is not None:
        share = f"{found.first_favoured:.1f} % [{found.low:.1f}, {found.high:.1f}]"
        bias = "which is a bias" if found.biased else "which shows no bias"
        notes.append(
            f"{benchmark.label}: the judge favours the response it sees first {share} of the time, {bias} by position; "
            f"in both orders it says the same of {found.consistent:.0f} % of the prompts. Both orders are averaged."
        )
    return notes
