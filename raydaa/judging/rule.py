"""A judge that gives each response a reward of its own: a function of prompt and response, or a reward model."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from raydaa.own_code import imported, source_hash
from raydaa.pocket.world import gold_reward

Reward = Callable[[str, str], float]
POCKET = "pocket"


def rule_of(name: str) -> Reward:
    """The rule called ``name``: the pocket world's own, or a function of the user's; ValueError where there is none."""
    if name == POCKET:
        return gold_reward
    found = imported(name)
    if not callable(found):
        raise ValueError(f"{name!r} is not a function of a prompt and a response")
    return found


def rule_identity(name: str) -> dict[str, Any]:
    """What a rule's verdicts depend on."""
    return {"function": name, "version": 1} | ({} if name == POCKET else {"code": source_hash(name, [rule_of(name)])})


def compared(ids: Sequence[str], rewards: Sequence[float], against: Sequence[float]) -> list[dict[str, Any]]:
    """Verdicts by two responses' rewards for each prompt: the higher wins; there is no order, and no noise.

    Where one of them is no number nothing can be said.
    """
    rows = []
    for name, mine, other in zip(ids, rewards, against, strict=True):
        known = not (math.isnan(mine) or math.isnan(other))
        outcome = 0.5 + 0.5 * ((mine > other) - (mine < other)) if known else None
        rows.append({"prompt_id": name, "outcome": outcome, "score": mine, "baseline_score": other})
    return rows
