"""A rule as the judge: a function of prompt and response that gives each response a reward of its own."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from raydaa.errors import InputError, first_line
from raydaa.evaluation.racing import Race
from raydaa.judging import judge
from raydaa.judging.judge import Comparisons, JudgeError, JudgeResources, Rows
from raydaa.pocket.world import gold_reward
from raydaa.settings.judge import RuleJudge
from raydaa.user_code import imported, source_hash

Reward = Callable[[str, str], float]
POCKET = "pocket"


class Judge(judge.Judge[RuleJudge]):
    """The higher reward wins."""

    @property
    def title(self) -> str:
        return f"rule {self.settings.function}"

    def identity(self) -> dict[str, Any]:
        return rule_identity(self.settings.function)

    def check(self, setting: str, on_gpus: bool) -> None:
        try:
            self.identity()
        except ValueError as error:
            raise InputError(f"{setting}.function: {error}") from None

    def judge(self, comparisons: Comparisons, resources: JudgeResources, race: Race | None = None) -> dict[str, Rows]:
        name = self.settings.function
        rule = rule_of(name)
        questions = comparisons.questions

        def rewards(responses: Sequence[str]) -> list[float]:
            try:
                return [float(rule(question, answer)) for question, answer in zip(questions, responses, strict=True)]
            except Exception as error:  # of a function of the user's
                raise JudgeError(f"{name} raised {type(error).__name__}: {first_line(error)}") from None

        against = rewards(comparisons.baseline)
        rows = {}
        for contestant, responses in comparisons.responses.items():
            rows[contestant] = compared(comparisons.ids, rewards(responses), against)
        return rows


def rule_of(name: str) -> Reward:
    """The rule called ``name``: the pocket world's own, or a function of the user's; ValueError where there is none."""
    if name == POCKET:
        return gold_reward
    value = imported(name)
    if not callable(value):
        raise ValueError(f"{name!r} is not a function of a prompt and a response")
    return value


def rule_identity(name: str) -> dict[str, Any]:
    """What a rule's verdicts depend on."""
    return {"function": name, "version": 1} | ({} if name == POCKET else {"code": source_hash(name, [rule_of(name)])})


def compared(ids: Sequence[str], rewards: Sequence[float], against: Sequence[float]) -> list[dict[str, Any]]:
    """Verdicts by two responses' rewards for each prompt: the higher wins; there is no order, and no noise.

    Where one of them is no number nothing can be said.
    """
    rows = []
    for name, reward, other in zip(ids, rewards, against, strict=True):
        known = not (math.isnan(reward) or math.isnan(other))
        outcome = 0.5 + 0.5 * ((reward > other) - (reward < other)) if known else None
        rows.append({"prompt_id": name, "outcome": outcome, "score": reward, "baseline_score": other})
    return rows
