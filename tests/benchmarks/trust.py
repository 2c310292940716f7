"""Can the figures be believed? Studies with a known truth, through the functions that reports are made by.

    python -m tests.benchmarks.trust [--studies 400]

Outcomes are latent: a setting's quality, its seed, the prompt, the prompt under this method, and the response that was
drawn add up to a normal value, which is a win, a tie or a loss. Their shares are those measured in real studies of the
pocket world: seeds move a win rate by 1 point (standard deviation), prompts make 32 points of an outcome's spread,
prompts under one method 11, responses 25. The truth is the expectation over all of them.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from raydaa.evaluation.comparison import compare
from raydaa.evaluation.kl import kl_divergence
from raydaa.evaluation.seeds import mean_over_seeds, seed_spread
from raydaa.evaluation.selection import optimism_of_choice
from raydaa.evaluation.win_rate import win_rate

NORMAL = NormalDist()
TIES = 0.2
PROMPT, PROMPT_BY_METHOD = 0.66, 0.09  # of the latent variance
SEED_POINTS = 1.0


@dataclass(frozen=True)
class World:
    """What outcomes are drawn from: settings by their latent quality and the method of each."""

    quality: np.ndarray  # (settings,)
    methods: np.ndarray  # (settings,) numbers
    seed_points: float = SEED_POINTS
    ties: float = TIES

    @property
    def border(self) -> float:
        """Of the latent value, between a tie and a win."""
        return NORMAL.inv_cdf(0.5 + self.ties / 2)

    def truth(self, latent: np.ndarray) -> np.ndarray:
        """Expected outcome of a latent quality."""
        return np.array([1 - (NORMAL.cdf(self.border - q) + NORMAL.cdf(-self.border - q)) / 2 for q in latent])

    def draw(self, generator: np.random.Generator, seeds: int, prompts: int) -> tuple[np.ndarray, np.ndarray]:
        """Outcomes ``(settings, seeds, prompts)``, and the latent quality of each model ``(settings, seeds)``."""
        settings = len(self.quality)
        slope = (self.truth(self.quality + 0.01) - self.truth(self.quality - 0.01)) / 0.02
        moved = generator.standard_normal((settings, seeds)) * (self.seed_points / 100 / slope)[:, None]
        models = self.quality[:, None] + moved
        of_prompt = generator.standard_normal(prompts) * PROMPT**0.5
        of_method = generator.standard_normal((int(self.methods.max()) + 1, prompts)) * PROMPT_BY_METHOD**0.5
        rest = generator.standard_normal((settings, seeds, prompts)) * (1 - PROMPT - PROMPT_BY_METHOD) ** 0.5
        latent = models[..., None] + of_prompt + of_method[self.methods][:, None] + rest
        return np.where(latent > self.border, 1.0, np.where(latent < -self.border, 0.0, 0.5)), models


def latent_of(rates: np.ndarray, ties: float = TIES) -> np.ndarray:
    """The latent quality whose expected outcome is each of ``rates``."""
    grid = np.linspace(-5, 5, 4001)
    world = World(np.zeros(1), np.zeros(1, int), ties=ties)
    return np.interp(rates, world.truth(grid), grid)


def world_of(rates: list[list[float]], **more: float) -> World:
    """Each method's settings by their true win rates."""
    methods = np.repeat(np.arange(len(rates)), [len(settings) for settings in rates])
    flat = np.concatenate([np.asarray(settings, float) for settings in rates])
    return World(latent_of(flat, more.get("ties", TIES)), methods, **more)


def edges(studies: int) -> Iterator[tuple[str, str]]:
    """Coverage of one model's interval, for rates up to the edge and shares of ties."""
    for prompts in (20, 50, 100, 300, 805):
        cells = []
        for rate in (0.5, 0.75, 0.9, 0.95, 0.97, 0.99):
            for ties in (0.0, 0.2):
                generator = np.random.default_rng(1)
                world = world_of([[rate]], seed_points=0.0, ties=min(ties, 2 * (1 - rate)))
                held = 0
                for _ in range(studies):
                    outcomes, _ = world.draw(generator, 1, prompts)
                    figures = win_rate(outcomes[0])
                    held += figures.low <= 100 * rate <= figures.high
                cells.append(f"{100 * held / studies:.0f}")
        yield f"interval at {prompts} prompts: 50, 75, 90, 95, 97, 99 %, each without and with ties", ", ".join(cells)


def seeds_held(studies: int) -> Iterator[tuple[str, str]]:
    """Coverage of a setting's interval, whatever the seed."""
    for prompts in (100, 300, 805):
        for seeds in (2, 3, 5):
            generator, held, total = np.random.default_rng(2), 0, 0
            world = world_of([[0.75]] * 6)
            for _ in range(studies):
                outcomes, _ = world.draw(generator, seeds, prompts)
                spread = seed_spread(outcomes)
                for setting in outcomes:
                    figures = win_rate(setting, spread)
                    held += figures.low <= 75 <= figures.high
                    total += 1
            yield f"setting's interval, {seeds} seeds, {prompts} prompts", f"{100 * held / total:.1f}"


def false_differences(studies: int) -> Iterator[tuple[str, str]]:
    """How often some pair of six equal methods is called different."""
    for prompts in (300, 805, 2000):
        for seeds, moved in ((1, 0.0), (2, SEED_POINTS), (3, SEED_POINTS), (3, 1.5)):
            generator, some = np.random.default_rng(3), 0
            world = world_of([[0.75]] * 6, seed_points=moved)
            for _ in range(studies):
                outcomes, _ = world.draw(generator, seeds, prompts)
                compared = compare([str(i) for i in range(6)], outcomes, seed_spread(outcomes))
                some += any(comparison.different for comparison in compared)
            about = "same checkpoints" if seeds == 1 else f"{seeds} seeds that move {moved} points"
            yield f"some of 6 equal methods different, {about}, {prompts} prompts", f"{100 * some / studies:.1f}"


def grid(methods: int, settings: int, spread: float, generator: np.random.Generator) -> list[list[float]]:
    """Settings around 75 %, with a standard deviation in points."""
    return [list(0.75 + generator.standard_normal(settings) * spread / 100) for _ in range(methods)]


def choices(studies: int) -> Iterator[tuple[str, str]]:
    """Bias and coverage of the recommended setting's value, and of every method's best, before and after correction."""
    for methods, settings, prompts in ((6, 4, 300), (8, 7, 805), (8, 25, 805)):
        for spread in (0.0, 1.0, 2.0):
            for seeds in (1, 3):
                if seeds > 1 and methods * settings > 60:
                    continue
                yield (
                    f"{methods} x {settings} settings that differ by {spread} points, {prompts} prompts, {seeds} seeds",
                    _choice(methods, settings, prompts, spread, seeds, max(40, studies // 4)),
                )


def _choice(methods: int, settings: int, prompts: int, spread: float, seeds: int, studies: int) -> str:
    generator = np.random.default_rng(4)
    raw, corrected, held, of_methods, held_methods, regret = [], [], [], [], [], []
    for _ in range(studies):
        world = world_of(grid(methods, settings, spread, generator))
        outcomes, models = world.draw(generator, seeds, prompts)
        # With one seed the truth is the checkpoints'.
        truth = 100 * (world.truth(models[:, 0]) if seeds == 1 else world.truth(world.quality))
        groups = {str(m): list(np.flatnonzero(world.methods == m)) for m in range(methods)}
        pooled = seed_spread(outcomes)
        optimism = optimism_of_choice(outcomes, groups, pooled)
        means = 100 * mean_over_seeds(outcomes).mean(axis=1)
        best = {name: members[int(means[members].argmax())] for name, members in groups.items()}
        first = max(best, key=lambda name: means[best[name]] - 100 * optimism.groups[name])
        chosen, lost = best[first], 100 * optimism.best
        figures = win_rate(outcomes[chosen], pooled)
        raw.append(figures.value - truth[chosen])
        corrected.append(figures.value - lost - truth[chosen])
        held.append(figures.low - lost <= truth[chosen] <= figures.high - lost)
        regret.append(truth.max() - truth[chosen])
        for name, setting in best.items():
            figures, lost = win_rate(outcomes[setting], pooled), 100 * optimism.groups[name]
            of_methods.append(figures.value - lost - truth[setting])
            held_methods.append(figures.low - lost <= truth[setting] <= figures.high - lost)
    shares = (
        np.mean(raw),
        np.mean(corrected),
        100 * np.mean(held),
        np.mean(of_methods),
        100 * np.mean(held_methods),
        np.mean(regret),
    )
    return "bias {:+.2f}, corrected {:+.2f}, coverage {:.0f}; methods' bests {:+.2f}, {:.0f}; regret {:.2f}".format(
        *shares
    )


UNEQUAL: dict[str, Callable[[np.random.Generator], list[list[float]]]] = {
    "1 setting against 36 equal ones": lambda _: [[0.75], [0.75] * 36],
    "28 near the best against 1 good of 24": lambda _: [[0.745] * 27 + [0.75], [0.75] + [0.67] * 23],
    "7, 24 and 36 equal settings": lambda _: [[0.75] * 7, [0.75] * 24, [0.75] * 36],
}


def unequal_grids(studies: int) -> Iterator[tuple[str, str]]:
    """How often methods are called different whose best settings are equal, when one had more tries."""
    for name, rates in UNEQUAL.items():
        generator, some = np.random.default_rng(5), 0
        repeats = max(40, studies // 2)
        for _ in range(repeats):
            world = world_of(rates(generator), seed_points=0.0)
            outcomes, _ = world.draw(generator, 1, 805)
            groups = {str(m): list(np.flatnonzero(world.methods == m)) for m in range(int(world.methods.max()) + 1)}
            optimism = optimism_of_choice(outcomes, groups)
            means = mean_over_seeds(outcomes).mean(axis=1)
            best = [members[int(means[members].argmax())] for members in groups.values()]
            compared = compare(list(groups), outcomes[best], None, list(optimism.groups.values()))
            some += any(comparison.different for comparison in compared)
        yield f"different: {name}", f"{100 * some / repeats:.1f}"


def distances(studies: int) -> Iterator[tuple[str, str]]:
    """Coverage of KL's interval where log-ratios are skewed."""
    for skew in (0.5, 1.0, 1.5):
        cells = []
        for prompts in (20, 50, 100, 500):
            generator, held = np.random.default_rng(6), 0
            for _ in range(studies):
                ratios = generator.lognormal(0.0, skew, prompts)
                figures = kl_divergence(ratios, ratios, np.full(prompts, 10.0), 1000)
                held += figures.low <= np.exp(skew**2 / 2) <= figures.high
            cells.append(f"{100 * held / studies:.0f}")
        yield f"KL's interval, lognormal {skew}, 20, 50, 100, 500 prompts", ", ".join(cells)


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400)
    studies = parser.parse_args().studies
    print("| what | % or points |\n|---|---|")
    for part in (edges, seeds_held, false_differences, choices, unequal_grids, distances):
        for name, value in part(studies):
            print(f"| {name} | {value} |", flush=True)


if __name__ == "__main__":
    main()
