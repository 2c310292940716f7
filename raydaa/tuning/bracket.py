"""Successive halving inside brackets of settings whose metric can be compared.

A decision at a rung waits until every trial of the bracket has its value there, so it depends on values alone and never
on timing: a resumed sweep, a slower machine or another order of trials decides the same. Who is in a bracket is fixed
before any of its trials reports. Seeds never compete: a setting is worth the mean over its seeds, which go on or stop
together.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

Decision = Literal["go", "wait", "stop"]


@dataclass
class Bracket:
    """Settings that compete, each with a trial for every seed. ``values[key][rung]`` is what trial ``key`` reached;
    lower is better."""

    rungs: int
    keep: float
    settings: dict[str, list[str]] = field(default_factory=dict)  # keys of their trials, in the order of joining
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)
    rung: int = 0  # the next to be decided
    alive: dict[str, str] = field(default_factory=dict)  # trials that are still in, with their settings
    awaited: set[str] = field(default_factory=set)  # those of them without a value at the rung

    def add(self, key: str, setting: str | None = None) -> None:
        """A trial joins, with its setting (its own with one seed); ties are decided in the order of joining."""
        assert self.rung == 0, "who is in a bracket is fixed before it decides"
        self.settings.setdefault(setting or key, []).append(key)
        self.values.setdefault(key, {})
        self.alive[key] = setting or key
        if self.rungs:
            self.awaited.add(key)

    def report(self, key: str, rung: int, value: float) -> None:
        """Trial ``key`` reached ``rung`` (from 0) with ``value``; NaN counts as worst."""
        self.values[key][rung] = math.inf if math.isnan(value) else value
        if rung == self.rung:
            self._no_longer_awaited(key)

    def leave(self, key: str) -> None:
        """Trial ``key`` will never report again: where it has no value, nobody waits for it."""
        self.over.add(key)
        self._no_longer_awaited(key)

    def decision(self, key: str) -> Decision:
        """Whether trial ``key`` goes on from where it is, waits for others, or stops."""
        if key not in self.alive:
            return "stop"
        return "wait" if self.rung < self.rungs and self.rung in self.values[key] else "go"

    def _no_longer_awaited(self, key: str) -> None:
        self.awaited.discard(key)
        while not self.awaited and self.rung < self.rungs:
            self._decide()

    def _decide(self) -> None:
        """Keep the best settings at the rung, each by the mean of its trials that reached it."""
        ranked: list[tuple[float, str]] = []
        for setting in dict.fromkeys(self.alive.values()):
            known = [value for key in self.settings[setting] if (value := self.values[key].get(self.rung)) is not None]
            if known:
                ranked.append((sum(known) / len(known), setting))
        ranked.sort(key=lambda entry: entry[0])  # stable: of equals the first that joined
        kept = {setting for _, setting in ranked[: max(1, math.ceil(len(ranked) * self.keep))]}
        self.alive = {
            key: setting for key, setting in self.alive.items() if setting in kept and self.rung in self.values[key]
        }
        self.rung += 1
        if self.rung < self.rungs:
            self.awaited = {key for key in self.alive if self.rung not in self.values[key] and key not in self.over}
