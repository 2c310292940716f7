"""``python -m tests.benchmarks.early_stopping``: what early stopping saves, and what it loses.

The pocket world's full grid is run once, every trial to its end and judged (5 methods × 4 β × 4 learning rates × 2
seeds). Its recorded curves are then replayed under the scheduler: the brackets, decisions and closing are the sweep's
own, only the training is read from the record. A grid of one seed is one replay: 4 trials a bracket with ``within:
beta``, 16 with ``within: method``. Regret is how many points of win rate the best trial of a method that finished in
the replay is below the best of the full grid; beside it stands the half-width of that best trial's own interval.
``--folder`` keeps the study, and goes on with it; ``--world 1`` is another world of the same kind.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from raydaa.reporting.page import markdown_table
from raydaa.results import TrialResults
from raydaa.settings.search import EarlyStopping
from raydaa.store.records import ACCURACY, LOSS, PREFERENCE_LOSS, Point
from raydaa.study import Study
from raydaa.training.spec import Recipe, RunSpec
from raydaa.trial_row import TrialRow
from raydaa.tuning.ledger import Ledger
from raydaa.tuning.search_space import groups
from raydaa.tuning.simulate import simulate
from raydaa.tuning.sweep import Sweep
from raydaa.tuning.swept_trial import SweptTrial

SETTINGS = [
    {"within": "beta", "rungs": [0.1, 0.3], "keep": 0.5},
    {"within": "beta", "rungs": [0.2], "keep": 0.25},
    {"within": "method", "rungs": [0.1, 0.3], "keep": 0.5},
    {"within": "method", "rungs": [0.1, 0.2, 0.4], "keep": 0.5},
    {"within": "method", "rungs": [0.1, 0.3], "keep": 0.35},
    {"within": "method", "rungs": [0.2], "keep": 0.15},
]
WORST = {LOSS: np.inf, ACCURACY: 0.0, PREFERENCE_LOSS: np.inf}  # of a trial that failed before
Metrics = dict[str, float]


def study(folder: Path, world: int) -> dict[str, Any]:
    """The full grid: 100 steps a trial, validated at every tenth of them."""
    betas = {
        "dpo": [0.02, 0.05, 0.1, 0.3],
        "ipo": [0.02, 0.05, 0.1, 0.3],
        "simpo": [0.5, 1.0, 2.0, 4.0],
        "orpo": [0.25, 0.5, 1.0, 2.0],
        "apo_zero": [0.02, 0.05, 0.1, 0.3],
    }
    return {
        "name": "full-grid",
        "model": {"source": "pocket"},
        "pocket": {"seed": world, "num_pairs": 3200, "noise": 0.5},
        "data": {name: {"source": "pocket"} for name in ("sft", "preferences", "prompts")} | {"max_length": 64},
        "sft": {"learning_rate": 3e-3, "epochs": 3, "batch_size": 64},
        "training": {"batch_size": 32, "precision": "fp32", "tokens_per_microbatch": 4096, "validations": 10},
        "search": {
            "learning_rate": [1e-4, 3e-4, 1e-3, 3e-3],
            "seeds": [0, 1],
            "methods": [{"name": name, "beta": values} for name, values in betas.items()],
            "early_stopping": None,
        },
        "generation": {"temperature": 1.0, "top_k": 0, "max_new_tokens": 32, "batch_size": 256},
        "evaluation": {"judge": "rule", "baseline": "sft", "models": ["sft"]},
        "storage": {"study": str(folder / "study")},
    }


class Record:
    """The full grid's trials, as they went."""

    def __init__(self, folder: Path, tree: dict[str, Any]) -> None:
        self.results = TrialResults.load(folder / "study")
        self.search = Study.from_tree(tree).settings.search
        self.rows = {self._place(row): row for row in self.results}
        self.metrics = {row.key: {m["step"]: m for m in self._read(row)} for row in self.results}

    def _read(self, row: TrialRow) -> list[Metrics]:
        return self.results.at.trial(row.key).read_metrics()

    def _place(self, of: TrialRow | Point) -> tuple[Any, ...]:
        return of.init, of.method, json.dumps(of.parameters, sort_keys=True), of.learning_rate, of.seed

    def replay(self, early: EarlyStopping, seed: int) -> list[SweptTrial]:
        """The grid of one seed under ``early``."""

        def make(point: Point) -> tuple[str, Recipe]:
            row = self.rows[self._place(point)]
            settings = json.loads(self.results.at.trial(row.key).spec.read_text())
            return row.key, replace(RunSpec.from_json(settings).recipe, rungs=early.rungs)

        found = groups(self.search.model_copy(update={"seeds": (seed,)}))
        pairs = json.loads((self.results.folder / "data.json").read_text())["rows"]["train"]
        sweep = Sweep(found, make, Ledger(), early, pairs)
        return simulate(sweep, lambda trial, step: self.metrics[trial.key].get(step, WORST)).trials

    def compare(self, early: EarlyStopping) -> dict[str, float]:
        """Share of the steps, and regret over methods and seeds."""
        used = every = 0
        regrets, noises = [], []
        for seed in self.search.seeds:
            trials = self.replay(early, seed)
            used, every = used + sum(t.reached for t in trials), every + sum(t.steps for t in trials)
            kept = {trial.key for trial in trials if trial.state == "finished"}
            for method in self.results.methods:
                mine = [r for r in self.results if (r.method, r.seed) == (method, seed) and r.win_rate is not None]
                best = max(mine, key=_win_rate)
                regrets.append(_win_rate(best) - max(_win_rate(row) for row in mine if row.key in kept))
                noises.append((rate.high - rate.low) / 2 if (rate := best.figures and best.figures.win_rate) else 0.0)
        return {
            "share of the steps": used / every,
            "mean regret": float(np.mean(regrets)),
            "largest regret": max(regrets),
            "regrets above noise": sum(r > n for r, n in zip(regrets, noises, strict=True)),
            "of": len(regrets),
            "noise": float(np.mean(noises)),
        }

    def correlations(self, share: float) -> Iterator[dict[str, Any]]:
        """Spearman's ρ of each held-out metric at ``share`` of the steps with the final win rate, per method.

        The trial's own loss is compared inside a β alone: there the mean over β's (and seeds) stands.
        """
        for method in self.results.methods:
            rows = [row for row in self.results if row.method == method and row.win_rate is not None]
            by_beta = [[r for r in rows if (r.beta, r.seed) == place] for place in {(r.beta, r.seed) for r in rows}]
            by_seed = [[r for r in rows if r.seed == seed] for seed in self.search.seeds]
            yield {
                "method": method,
                "at": share,
                "preference loss within β": self._mean(by_beta, share, lambda m: -m[PREFERENCE_LOSS]),
                "own loss within β": self._mean(by_beta, share, lambda m: -m[LOSS]),
                "preference loss within method": self._mean(by_seed, share, lambda m: -m[PREFERENCE_LOSS]),
                "accuracy within method": self._mean(by_seed, share, lambda m: m[ACCURACY]),
            }

    def _mean(self, brackets: list[list[TrialRow]], share: float, of: Callable[[Metrics], float]) -> float:
        found = []
        for rows in brackets:
            early = [of(self.metrics[row.key].get(round(share * row.trial.steps), WORST)) for row in rows]
            frame = pd.DataFrame({"early": early, "late": [_win_rate(row) for row in rows]})
            found.append(frame.corr(method="spearman").loc["early", "late"])
        return float(np.nanmean(found))


def _win_rate(row: TrialRow) -> float:
    return row.win_rate if row.win_rate is not None else 0.0


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    cells = ([f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows)
    return markdown_table(list(rows[0]), cells)


def main() -> None:
    """Print the tables and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--world", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("early-stopping-benchmark.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = (options.folder or Path(name)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        tree = study(folder, options.world)
        (folder / "study.yaml").write_text(yaml.safe_dump(tree))
        command = [sys.executable, "-m", "raydaa", "run", str(folder / "study.yaml")]
        subprocess.run(command, check=True, stdout=sys.stderr)
        record = Record(folder, tree)
        replays = [{**early, **record.compare(EarlyStopping.model_validate(early))} for early in SETTINGS]
    found = [row for share in (0.1, 0.3) for row in record.correlations(share)]
    options.json.write_text(json.dumps({"replays": replays, "correlations": found}, indent=1) + "\n")
    print(f"{table(replays)}\n\n{table(found)}")


if __name__ == "__main__":
    main()
