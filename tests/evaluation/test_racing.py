"""A race of settings: whom it drops, and that it is the same whenever it is run."""

import numpy as np

from raydaa.evaluation.racing import Race, on_all_prompts


def run(race: Race, outcomes: dict[str, np.ndarray]) -> dict[str, int]:
    """On how many prompts each model was judged."""
    judged = dict.fromkeys(outcomes, 0)
    while race.block:
        block = race.block
        for model in race.models:
            judged[model] += len(block)
        race.tell({model: outcomes[model][block.start : block.stop].tolist() for model in race.models})
    return judged


def draw(rates: list[float], prompts: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    hard = generator.random(prompts) - 0.5
    return {str(i): (generator.random(prompts) < rate + 0.3 * hard).astype(float) for i, rate in enumerate(rates)}


def test_what_is_clearly_behind_is_judged_no_further() -> None:
    outcomes = draw([0.8, 0.78, 0.4, 0.3], 805)
    judged = run(Race(805, {name: [name] for name in outcomes}), outcomes)
    assert judged["0"] == 805
    assert judged["2"] < 200
    assert judged["3"] <= 100
    again = run(Race(805, {name: [name] for name in outcomes}), outcomes)
    assert judged == again


def test_equal_ones_all_stay_and_the_best_is_rarely_lost() -> None:
    same = draw([0.6] * 4, 300)["0"]
    judged = run(Race(300, {name: [name] for name in "abcd"}), dict.fromkeys("abcd", same))
    assert set(judged.values()) == {300}
    kept = 0
    for seed in range(60):
        outcomes = draw([0.72, 0.62, 0.6, 0.6, 0.55, 0.5], 300, seed)
        kept += run(Race(300, {name: [name] for name in outcomes}), outcomes)["0"] == 300
    assert kept >= 52


def test_seeds_go_together_and_those_beside_are_judged_on_everything() -> None:
    outcomes = draw([0.9, 0.9, 0.2, 0.9, 0.5], 200)
    race = Race(200, {"good": ["0", "1"], "mixed": ["2", "3"]}, always=["4"])
    judged = run(race, outcomes)
    assert judged["0"] == judged["1"] == judged["4"] == 200
    assert judged["2"] == judged["3"] < 200


def test_answers_that_cannot_be_read_say_nothing() -> None:
    outcomes = draw([0.9, 0.5], 200)
    outcomes["1"][::2] = np.nan
    judged = run(Race(200, {name: [name] for name in outcomes}), outcomes)
    assert judged["0"] == 200
    assert 0 < judged["1"] < 200
    nothing = {"a": np.full(100, np.nan), "b": np.full(100, np.nan)}
    assert run(Race(100, {"a": ["a"], "b": ["b"]}), nothing) == {"a": 100, "b": 100}


def test_blocks() -> None:
    race = Race(300, {"a": ["a"]}, always=["b"])
    sizes = []
    while race.block:
        sizes.append(len(race.block))
        race.tell({"a": [1.0] * len(race.block), "b": [0.0] * len(race.block)})
    assert sizes == [18, *[25] * 11, 7]


def test_what_was_left_out_is_filled_by_the_difference_to_the_first() -> None:
    """The first prompts were easy: 0.9 of one that fell out there is worth less than 0.8 of all."""
    first = np.array([1.0, 1.0, 1.0, 1.0, 0.4, 0.4])
    out = np.array([0.9, 0.9, np.nan, np.nan, np.nan, np.nan])
    filled = on_all_prompts(np.array([first, out]))
    assert filled[1].tolist() == [0.9, 0.9, 0.9, 0.9, 0.30000000000000004, 0.30000000000000004]
    assert filled[0].tolist() == first.tolist()
    assert on_all_prompts(filled) is filled
