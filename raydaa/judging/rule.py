"""A judge that is a function of prompt and response."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Reward = Callable[[str, str], float]


@dataclass(frozen=True)
class Verdict:
    """``outcome`` of the model against the baseline on one prompt (1 win, ½ tie, 0 loss), and both rewards."""

    prompt_id: str
    outcome: float
    score: float
    baseline_score: float


def judge_by_rule(
    reward: Reward, ids: Sequence[str], prompts: Sequence[str], responses: Sequence[str], baseline: Sequence[str]
) -> list[Verdict]:
    """Compare by a reward that is a pure function of prompt and response: no order, no noise."""
    verdicts = []
    for name, prompt, response, other in zip(ids, prompts, responses, baseline, strict=True):
        score, against = reward(prompt, response), reward(prompt, other)
        verdicts.append(Verdict(name, 0.5 + 0.5 * ((score > against) - (score < against)), score, against))
    return verdicts
