"""What a race of verdicts saves, and what it costs: verdicts asked for, and regret of the setting that is chosen.

    python -m tests.benchmarks.racing STUDY_DIR [--prompts 300] [--repeats 400]
    python -m tests.benchmarks.racing --simulate

STUDY_DIR is a finished study; its verdicts on the first benchmark are what the judge would say. The truth is the mean
over all recorded prompts; each repeat draws as many prompts as ``--prompts`` says, in a random order, and chooses by
them: once by all verdicts, once by a race, once by half of the prompts. Simulated studies have the variances that were
measured in the pocket world (tests.benchmarks.trust).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from raydaa.evaluation.racing import Race
from raydaa.evaluation.seeds import mean_over_seeds
from raydaa.results import TrialResults
from tests.benchmarks.trust import grid, world_of

SIMULATED = ((6, 4, 300, 2.0), (8, 7, 805, 2.0), (8, 25, 805, 2.0))  # methods, settings, prompts, spread in points


def race(outcomes: np.ndarray) -> tuple[int, float]:
    """Whom a race of ``(settings, prompts)`` chooses, and the share of verdicts that it asked for."""
    names = [str(number) for number in range(len(outcomes))]
    running = Race(outcomes.shape[1], {name: [name] for name in names})
    asked = 0
    while running.block:
        block = running.block
        asked += len(block) * len(running.alive)
        running.tell({name: outcomes[int(name), block.start : block.stop].tolist() for name in running.models})
    left = [int(name) for name in running.alive]
    return left[int(outcomes[left].mean(axis=1).argmax())], asked / outcomes.size


def compare(draws: Iterator[tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[float, float, float]]:
    """Regret in points with its standard error, and the share of verdicts, of each way; ``draws`` are outcomes with the
    truth of each setting."""
    regrets: dict[str, list[float]] = {"all verdicts": [], "race": [], "half of the prompts": []}
    shares = {"all verdicts": [1.0], "race": list[float](), "half of the prompts": [0.5]}
    for outcomes, truth in draws:
        raced, share = race(outcomes)
        shares["race"].append(share)
        half = outcomes[:, : outcomes.shape[1] // 2]
        chosen = {
            "all verdicts": int(outcomes.mean(axis=1).argmax()),
            "race": raced,
            "half of the prompts": int(half.mean(axis=1).argmax()),
        }
        for name, setting in chosen.items():
            regrets[name].append(100 * float(truth.max() - truth[setting]))
    return {
        name: (float(np.mean(r)), float(np.std(r, ddof=1) / len(r) ** 0.5), float(np.mean(shares[name])))
        for name, r in regrets.items()
    }


def recorded(folder: Path, prompts: int, repeats: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draws from the verdicts of a finished study."""
    results = TrialResults.load(folder)
    means = mean_over_seeds(results.outcomes_of([row for row in results.settings if row.rate is not None]))
    means = means[:, ~np.isnan(means).any(axis=0)]
    if means.shape[1] < prompts:
        raise SystemExit(
            f"{folder}: all settings were judged on {means.shape[1]} prompts; --prompts asks for {prompts}"
        )
    print(f"{folder.name}: {len(means)} settings, {means.shape[1]} prompts recorded, {prompts} drawn")
    generator = np.random.default_rng(0)
    for _ in range(repeats):
        yield means[:, generator.permutation(means.shape[1])[:prompts]], means.mean(axis=1)


def simulated(
    methods: int, settings: int, prompts: int, spread: float, repeats: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draws from studies with a known truth."""
    generator = np.random.default_rng(0)
    print(f"simulated: {methods * settings} settings, {prompts} prompts")
    for _ in range(repeats):
        world = world_of(grid(methods, settings, spread, generator), seed_points=0.0)
        outcomes, _ = world.draw(generator, 1, prompts)
        yield outcomes[:, 0], world.truth(world.quality)


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", type=Path)
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=400)
    options = parser.parse_args()
    draws = [simulated(*shape, options.repeats) for shape in SIMULATED] if options.simulate else []
    if options.study is not None:
        draws.append(recorded(options.study, options.prompts, options.repeats))
    for one in draws:
        for name, (regret, error, share) in compare(one).items():
            print(f"  {name:<20} regret {regret:.2f} ± {1.96 * error:.2f} points, {100 * share:.0f} % of the verdicts")


if __name__ == "__main__":
    main()
