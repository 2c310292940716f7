"""The picture of what "not told apart" means: intervals that overlap, and what the paired comparison says.

    python -m tests.benchmarks.tied [raydaa/docs/tied.svg]

Outcomes are drawn once from a simulated study (tests.benchmarks.trust); every figure is the product's own.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from raydaa.evaluation.comparison import compare
from raydaa.evaluation.win_rate import win_rate
from raydaa.reporting.with_matplotlib import STYLE
from tests.benchmarks.trust import world_of

NAMES = ("A", "B", "C")
RATES = (0.78, 0.77, 0.735)
PROMPTS = 805


def main() -> None:
    """Draw it."""
    place = Path(sys.argv[1] if len(sys.argv) > 1 else "raydaa/docs/tied.svg")
    world = world_of([[rate] for rate in RATES], seed_points=0.0)
    outcomes = world.draw(np.random.default_rng(3), 1, PROMPTS)[0][:, 0]
    compared = compare(NAMES, outcomes)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 2.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        for number, one in enumerate(outcomes):
            rate = win_rate(one)
            around = [[rate.value - rate.low], [rate.high - rate.value]]
            left.errorbar([rate.value], [number], xerr=around, marker="o", color=f"C{number}", ms=5)
        left.set_yticks(range(len(NAMES)), NAMES)
        left.set(xlabel="win rate (%)", title="each method: intervals overlap")
        left.invert_yaxis()
        for number, pair in enumerate(compared):
            colour = "#D55E00" if pair.different else "0.5"
            around = [[pair.difference - pair.low], [pair.high - pair.difference]]
            right.errorbar([pair.difference], [number], xerr=around, marker="o", color=colour, ms=5)
            right.annotate(
                "different" if pair.different else f"not told apart (reach {pair.reach:.1f} points)",
                (pair.difference, number),
                textcoords="offset points",
                xytext=(0, 8),
                ha="center",
                fontsize=8,
            )
        right.axvline(0, color="0.6", lw=0.8, ls=":")
        right.set_yticks(range(len(compared)), [f"{pair.one} − {pair.other}" for pair in compared])
        right.set(
            xlabel="difference on the same prompts (points)", title="each pair: what tells them apart", ylim=(2.4, -0.8)
        )
        figure.savefig(place, metadata={"Date": None})
    print(place)


if __name__ == "__main__":
    main()
