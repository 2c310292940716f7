"""Successive halving inside brackets of trials whose metric can be compared.

A decision at a rung waits until every trial of the bracket has its value there, so it depends on values alone
and never on timing: a resumed sweep, a slower machine or another order of trials decides the same.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

Decision = Literal["go", "wait", "stop"]


@dataclass
class Bracket:
    """Trials that compete. ``values[key][rung]`` is what trial ``key`` reached; lower is better."""

    rungs: int
    keep: float
    members: list[str] = field(default_factory=list)
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)

    def add(self, key: str) -> None:
        """A trial joins; ties are decided in the order of joining."""
        self.members.append(key)
        self.values.setdefault(key, {})

    def report(self, key: str, rung: int, value: float) -> None:
        """Trial ``key`` reached ``rung`` (from 0) with ``value``; NaN counts as worst."""
        self.values[key][rung] = math.inf if math.isnan(value) else value

    def leave(self, key: str) -> None:
        """Trial ``key`` will never report again: where it has no value, nobody waits for it."""
        self.over.add(key)

    def decision(self, key: str) -> Decision:
        """Whether trial ``key`` goes on from where it is, waits for others, or stops."""
        alive = list(self.members)
        for rung in range(self.rungs):
            reached = [k for k in alive if rung in self.values[k]]
            if rung not in self.values[key]:
                return "go"
            if any(k not in reached and k not in self.over for k in alive):
                return "wait"
            order = {k: index for index, k in enumerate(self.members)}
            ranked = sorted(reached, key=lambda k: (self.values[k][rung], order[k]))
            alive = ranked[: max(1, math.ceil(len(ranked) * self.keep))]
            if key not in alive:
                return "stop"
        return "go"
