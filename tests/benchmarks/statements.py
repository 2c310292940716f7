"""``python -m tests.benchmarks.statements``: which of the paper's statements hold in the pocket world.

The twins of the paper's studies are run in several worlds (other data, another base model, another order of it all)
and, for the ranking of methods, with two sizes of model. A method's setting is chosen on half of the prompts and its
win rate is the other half's, so that what had more settings to choose from gains nothing by that. What is stated is a
difference of win rates in points, one for each world; its interval is Student's over the worlds. ``--folder`` keeps
the studies, and goes on with them.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from raydaa.reporting.page import markdown_table
from raydaa.results import TrialResults
from raydaa.store.tables import VERDICTS
from raydaa.trial_row import TrialRow

# What of the twins the statements need: one-stage trials of two epochs, and four of eight shares of the SFT data.
FEWER = {
    "base_vs_sft_8b": [f"search.methods[{number}].training.epochs=[2]" for number in (0, 1)],
    "sft_fraction_8b": [f"{name}=[base, 'sft:0.01', 'sft:0.1', sft]" for name in ("search.init", "evaluation.models")],
}
SIZES = {"small": 32, "large": 96}
Chosen = Callable[[TrialRow], bool]


class Outcomes:
    """A twin's finished trials with their outcomes, prompt by prompt."""

    def __init__(self, folder: Path) -> None:
        self.results = TrialResults.load(folder)
        self.outcomes: dict[str, np.ndarray] = {}
        for row in self.results:
            if row.figures is not None and row.figures.verdicts is not None:
                verdicts = VERDICTS.read(folder / row.figures.verdicts).sort_by("prompt_id")
                self.outcomes[row.key] = 100 * verdicts["outcome"].to_numpy()

    def rate(self, of: Chosen) -> float:
        """Win rate of the trial that is best on every other prompt, on the prompts between them (and the reverse)."""
        found = [self.outcomes[row.key] for row in self.results if row.key in self.outcomes and of(row)]
        halves = np.array([[outcomes[0::2].mean(), outcomes[1::2].mean()] for outcomes in found])
        return float(np.mean([halves[halves[:, side].argmax(), 1 - side] for side in (0, 1)]))

    def rates(self, methods: Iterable[str]) -> float:
        """Mean over methods."""
        return float(np.mean([self.rate(lambda row, method=method: row.method == method) for method in methods]))

    def methods(self, ranking: str) -> set[str]:
        """The study's, of one ranking."""
        return {row.method for row in self.results if row.ranking == ranking}


def stages(one: Outcomes) -> dict[str, float]:
    """One stage against two."""
    found = {}
    for method in ("orpo", "asft"):

        def rate(init: str, sft: bool, method: str = method) -> float:
            return one.rate(lambda row: (row.method, row.init, row.sft_weight > 0) == (method, init, sft))

        found[f"{method}: two stages without the SFT term − one stage"] = rate("sft", False) - rate("base", True)
        found[f"{method}: two stages without the SFT term − with it"] = rate("sft", False) - rate("sft", True)
    return found


def fractions(one: Outcomes) -> dict[str, float]:
    """How much SFT a method needs: means over methods."""
    names = ("base", "sft:0.01", "sft:0.1", "sft")
    rates = {name: np.mean([_from(one, method, name) for method in one.results.methods]) for name in names}
    return {f"{name} − all of the SFT data": float(rates[name] - rates["sft"]) for name in names[:-1]}


def _from(one: Outcomes, method: str, init: str) -> float:
    return one.rate(lambda row: (row.method, row.init) == (method, init))


def rankings(size: str) -> Callable[[Outcomes], dict[str, float]]:
    """Pairwise against pointwise, and what choosing β brings to the methods that were published without one."""

    def of(one: Outcomes) -> dict[str, float]:
        found = {
            f"pairwise − pointwise, {size} model": one.rates(one.methods("pairwise"))
            - one.rates(one.methods("pointwise"))
        }
        for method in ("orpo", "asft"):
            free = one.rate(lambda row, method=method: row.method == method)
            fixed = one.rate(lambda row, method=method: (row.method, row.beta) == (method, 1.0))
            found[f"{method}: β chosen − β = 1, {size} model"] = free - fixed
        return found

    return of


STUDIES = {
    "base_vs_sft_8b": ("large", stages),
    "sft_fraction_8b": ("large", fractions),
    "uf_3b": ("small", rankings("small")),
    "uf_8b": ("large", rankings("large")),
}


def run(study: str, size: str, world: int, folder: Path) -> Outcomes:
    """A twin in one world, made or gone on with."""
    place = folder / f"{study}-{world}"
    values = [
        f"pocket.hidden_size={SIZES[size]}",
        f"pocket.seed={world}",
        "pocket.num_prompts=600",
        "generation.engine=transformers",
        *FEWER.get(study, ()),
    ]
    command = [sys.executable, "-m", "raydaa", "run", f"search_spaces/{study}.yaml", "--pocket", "--output", str(place)]
    subprocess.run(command + [part for value in values for part in ("--set", value)], check=True, stdout=sys.stderr)
    return Outcomes(place)


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval."""
    error = float(stats.sem(values)) if len(values) > 1 else float("nan")
    return float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1)) * error


def main() -> None:
    """Print the table and write every world's figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("statements"))
    parser.add_argument("--json", type=Path, default=Path("statements-benchmark.json"))
    options = parser.parse_args()
    found: dict[str, list[float]] = {}
    for world in range(options.worlds):
        for study, (size, stated) in STUDIES.items():
            for name, value in stated(run(study, size, world, options.folder)).items():
                found.setdefault(name, []).append(value)
    options.json.write_text(json.dumps(found, indent=1) + "\n")
    rows: list[list[Any]] = []
    for name, values in found.items():
        mean, half = interval(values)
        rows.append([name, f"{mean:+.1f} ± {half:.1f}", ", ".join(f"{value:+.1f}" for value in values)])
    print(markdown_table(("difference of win rates", "points", "each world"), rows))


if __name__ == "__main__":
    main()
