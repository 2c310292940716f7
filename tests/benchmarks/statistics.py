"""``python -m tests.benchmarks.statistics``: what the figures beside a benchmark's scores cost.

1,000 bootstrap draws over 805 prompts for each of 60 trials: win rates, length-controlled win rates, and the
comparison of every pair of trials; and the win rates once more by a loop over draws, for the ratio.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from raydaa.evaluation.comparison import compare
from raydaa.evaluation.length_control import length_controlled_win_rate
from raydaa.evaluation.win_rate import bootstrap_indices, interval, win_rate
from tests.benchmarks.figures import show


def main() -> None:
    """Print the figures as Markdown and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--prompts", type=int, default=805)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--json", type=Path, default=Path("statistics-benchmark.json"))
    options = parser.parse_args()
    generator, shape = np.random.default_rng(0), (options.trials, options.prompts)
    lengths = generator.lognormal(7, 0.5, (options.trials + 1, options.prompts)).round()
    difficulty = generator.normal(0, 1, options.prompts)
    log_odds = np.tanh((lengths[1:] - lengths[0]) / lengths.std()) + difficulty + generator.normal(0, 1, shape)
    preference = 1 / (1 + np.exp(-log_odds))

    begun = time.perf_counter()
    rates = [win_rate(row, draws=options.draws) for row in preference]
    at_win_rates = time.perf_counter()
    for own, row in zip(lengths[1:], preference, strict=True):
        length_controlled_win_rate(row, own, lengths[0], difficulty, draws=options.draws)
    at_controlled = time.perf_counter()
    pairs = compare([str(number) for number in range(options.trials)], preference, draws=options.draws)
    over = time.perf_counter()
    for row, rate in zip(preference, rates, strict=True):
        drawn = bootstrap_indices(options.prompts, options.draws)
        low, high = interval(np.array([100 * sum(row[chosen].tolist()) / options.prompts for chosen in drawn]))
        assert abs(low - rate.low) + abs(high - rate.high) < 1e-9
    one_by_one = time.perf_counter() - over
    show(
        {
            "seconds_in_all": over - begun,
            "win_rates": at_win_rates - begun,
            "length_controlled": at_controlled - at_win_rates,
            "comparisons": over - at_controlled,
            "pairs": len(pairs),
            "win_rates_draw_by_draw": one_by_one,
            "ratio": one_by_one / (at_win_rates - begun),
        },
        options.json,
    )


if __name__ == "__main__":
    main()
