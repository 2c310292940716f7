"""``python -m tests.benchmarks.decision --data PAIRS.parquet``: what a user pays until the choice is made.

A sweep with early stopping inside methods, from the command to the report, against 24 of TRL's runs whole: one run at
its best setting (reference log-probabilities precomputed) is timed as a process of its own and counted 24 times. What
the choice is worth is seen on the same grid without early stopping: regret is how far the held-out loss of what was
chosen is above the lowest of all, pair by pair with its 95 % interval. With ``--trials 24 240`` the same of larger
grids.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from raydaa.evaluation.comparison import compare
from raydaa.results import TrialResults
from raydaa.store.records import Point
from tests.benchmarks.figures import show
from tests.benchmarks.sweep import by_hand, study
from tests.benchmarks.work import add_arguments, make_work

METHODS = {"dpo": 0.1, "ipo": 0.1, "simpo": 1.0, "orpo": 0.5}  # and a β around which the grid lies
GRIDS = {24: (2, 3), 240: (6, 10)}  # values of β and learning rates


def grid_study(folder: Path, options: argparse.Namespace, trials: int, early: bool) -> dict[str, Any]:
    """A grid of so many trials, whose held-out pairs rank it."""
    betas, rates = GRIDS[trials]
    grid = [{"name": name, "beta": np.geomspace(beta / 2, beta * 2, betas).tolist()} for name, beta in METHODS.items()]
    search = {
        "init": "base",
        "learning_rate": np.geomspace(1e-5, 1e-3, rates).tolist(),
        "methods": grid,
        "early_stopping": {"within": "method"} if early else None,
    }
    return study(folder, options, f"{'early' if early else 'whole'}-{trials}", search, {"kl_prompts": 4})


def run(folder: Path, tree: dict[str, Any]) -> tuple[float, TrialResults]:
    """Seconds from the command to its end, and what came out."""
    path = folder / f"{tree['name']}.yaml"
    path.write_text(yaml.safe_dump(tree))
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "raydaa", "run", str(path)], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return seconds, TrialResults.load(Path(tree["storage"]["study"]))


def regret(whole: TrialResults, chosen: Point) -> dict[str, float]:
    """Of a choice, by the same grid run whole: nats of held-out loss above the lowest, with the interval."""
    best = max(whole.settings, key=whole.rank)
    (own,) = [row for row in whole.settings if row.trial.point.setting == chosen.setting]
    if own.key == best.key:
        return {"regret (nats)": 0.0, "regret low": 0.0, "regret high": 0.0}
    (pair,) = compare(["best", "chosen"], whole.outcomes_of([best, own]), bounded=False)
    return {"regret (nats)": pair.difference, "regret low": pair.low, "regret high": pair.high}


def main() -> None:
    """Print the figures as Markdown and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, shape="64/96/96", pairs=400)
    parser.add_argument("--trials", type=int, nargs="+", choices=GRIDS, default=[24])
    parser.add_argument("--without-regret", action="store_true", help="do not run the grid of 24 whole")
    parser.add_argument("--concurrent", type=int, default=2, help="trials at a time, each on one core")
    parser.add_argument("--json", type=Path, default=Path("decision-benchmark.json"))
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_work(folder, options)
        texts = json.loads((folder / "texts.json").read_text())
        (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
        for trials in options.trials:
            seconds, results = run(folder, grid_study(folder, options, trials, early=True))
            figures[f"decision of {trials} (s)"] = seconds
            if trials == min(GRIDS):
                figures["TRL's run (s)"] = by_hand(folder, options)
                figures["24 of TRL's runs / decision"] = 24 * figures["TRL's run (s)"] / seconds
                if not options.without_regret:
                    whole_seconds, whole = run(folder, grid_study(folder, options, trials, early=False))
                    figures["whole grid of 24 (s)"] = whole_seconds
                    figures |= regret(whole, results.best_of_each()[0].trial.point)
    show(figures, options.json)


if __name__ == "__main__":
    main()
