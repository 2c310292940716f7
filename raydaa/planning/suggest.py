"""The study that would answer what a finished one leaves open."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raydaa.data.inputs import POCKET
from raydaa.errors import InputError
from raydaa.reporting.edges import LEARNING_RATE, edges
from raydaa.results import TrialResults
from raydaa.store.records import Point
from raydaa.study import Study
from raydaa.trial_row import TrialRow

MORE_SEEDS = 2  # than a study has


@dataclass(frozen=True)
class Suggestion:
    """A study file, and why."""

    goal: str
    reasons: tuple[str, ...]
    tree: dict[str, Any]

    def to_yaml(self) -> str:
        """As a file, with the reasons above it."""
        comments = "".join(f"# {line}\n" for line in self.reasons)
        return comments + yaml.safe_dump(self.tree, sort_keys=False, allow_unicode=True)


def suggest(folder: Path, goal: str | None = None) -> Suggestion:
    """What to run next: ``edges``, ``seeds``, ``prompts`` or ``rates``; None: the first of them that is open.

    ValueError where ``folder`` is no finished study, InputError where its study file can't be taken up.
    """
    results = TrialResults.load(folder)
    if not results.best_of_each():
        raise ValueError(f"{folder}: no trial finished; there is nothing to go on from")
    tree = yaml.safe_load(results.at.settings.read_text(encoding="utf-8"))
    tree["storage"]["study"] = str(results.folder)  # it may have been moved since
    suggestion = GOALS[goal or _open_goal(results, tree)](results, tree)
    try:
        Study.from_tree(suggestion.tree)
    except InputError as error:
        raise InputError(f"{results.at.settings}: {error}") from None
    return suggestion


def _open_goal(results: TrialResults, tree: dict[str, Any]) -> str:
    if edges(results):
        return "edges"
    if _rivals(results):
        several = len(results.best_of_each()[0].seeds) > 1
        return "prompts" if several and results.judged and _judges_own_prompts(tree) else "seeds"
    return "rates"


def _judges_own_prompts(tree: dict[str, Any]) -> bool:
    """Whether settings are ranked on the study's own prompts, of which there may be more."""
    return tree["evaluation"]["benchmarks"][0].get("source") is None


def _rivals(results: TrialResults) -> list[TrialRow]:
    """The methods' best settings that are not told apart from the recommended one."""
    best = results.best_of_each()
    equal = {pair.other for pair in results.comparisons() if pair.one == best[0].title and not pair.different}
    return [row for row in best[1:] if row.title in equal]


def _edges(results: TrialResults, tree: dict[str, Any]) -> Suggestion:
    """The same study with points beyond its edges: it goes on in its folder."""
    reasons = ["Goes on in the same folder, beyond the edge of what was tried:"]
    for edge in edges(results):
        reasons.append(f"  {edge}")
        tree["search"]["methods"].append(_entry(edge.row.trial.point, edge.name, list(edge.next_values)))
    if len(reasons) == 1:
        raise ValueError(f"{results.folder}: no best setting lies at the edge of what was tried")
    return Suggestion("edges", tuple(reasons), tree)


def _rates(results: TrialResults, tree: dict[str, Any]) -> Suggestion:
    """The same study with learning rates between those around the best one."""
    best = results.best_of_each()[0]
    tried = sorted({row.learning_rate for row in results if row.title == best.title})
    number = tried.index(best.learning_rate)
    around = [rate for rate in tried[max(0, number - 1) : number + 2] if rate != best.learning_rate]
    between = [float(f"{(rate * best.learning_rate) ** 0.5:.2g}") for rate in around]
    if not between:
        raise ValueError(
            f"{results.folder}: {best.title} was trained at one learning rate; give search.learning_rate two"
        )
    tree["search"]["methods"].append(_entry(best.trial.point, LEARNING_RATE, between))
    return Suggestion("rates", (f"Goes on in the same folder, with rates around the best of {best.title}.",), tree)


def _seeds(results: TrialResults, tree: dict[str, Any]) -> Suggestion:
    """The methods' best settings alone, with more seeds: a study of its own."""
    best = results.best_of_each()
    seeds = list(best[0].seeds)
    seeds += [max(seeds) + number for number in range(1, MORE_SEEDS + 1)]
    tree["search"] |= {"methods": [_entry(row.trial.point) for row in best], "seeds": seeds, "early_stopping": None}
    tree["name"] = f"{tree['name']}-seeds"
    tree["storage"]["study"] = None
    reason = f"The best setting of each method with {len(seeds)} seeds: which method is better, whatever the seed."
    return Suggestion("seeds", (reason,), tree)


def _prompts(results: TrialResults, tree: dict[str, Any]) -> Suggestion:
    """The same study on twice the prompts: nothing is trained again."""
    if not (results.judged and _judges_own_prompts(tree)):
        raise ValueError(f"{results.folder}: its settings are not ranked on data.prompts; more of them change nothing")
    prompts = tree["data"]["prompts"]
    report = results.at.data_report.read()
    number = 0 if report is None else report.rows["prompts"]
    if prompts["source"] == POCKET:
        tree["pocket"]["num_prompts"] = 2 * number
    elif prompts["num"] is None or number < prompts["num"]:
        raise ValueError(f"{results.folder}: all {number} prompts of its source are judged; name a larger data.prompts")
    prompts["num"] = 2 * number
    names = ", ".join(row.title for row in [results.best_of_each()[0], *_rivals(results)])
    reason = f"Goes on in the same folder, on {2 * number} prompts instead of {number}: {names} are not told apart."
    return Suggestion("prompts", (reason,), tree)


def _entry(point: Point, axis: str | None = None, values: list[float] | None = None) -> dict[str, Any]:
    """A method entry of one point, with other values of one axis."""
    entry: dict[str, Any] = {"name": point.method, "init": [point.init], "learning_rate": [point.learning_rate]}
    entry |= {name: [value] for name, value in point.parameters.items()}
    entry |= {"sft_weight": [point.sft_weight], "align_weight": [point.align_weight]}
    entry["data.preferences.fraction"] = [point.fraction]
    entry |= {f"training.{name}": [value] for name, value in point.training.items()}
    if axis is not None and values is not None:
        entry["learning_rate" if axis == LEARNING_RATE else axis] = values
    return entry


GOALS: dict[str, Callable[[TrialResults, dict[str, Any]], Suggestion]] = {
    "edges": _edges,
    "seeds": _seeds,
    "prompts": _prompts,
    "rates": _rates,
}
