"""A trial as results show it: settings, state and figures, read from the study folder."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from raydaa.store.artifacts import read_json
from raydaa.store.study_folder import ACCURACY, LOSS, MARGIN, PREFERENCE_LOSS, StudyFolder, TrialState

# Columns that differ between two runs of the same study; every other is reproducible.
TIME_COLUMNS = ("tokens_per_second", "seconds", "start_seconds", "mfu", "peak_memory")


@dataclass(frozen=True)
class TrialRow:
    """A trial's settings, state and figures; None where something was not measured."""

    key: str
    label: str
    init: str
    method: str
    title: str  # the method, marked where it is normalised otherwise than its own form
    ranking: str
    parameters: dict[str, Any]
    learning_rate: float
    seed: int
    sft_weight: float
    align_weight: float
    fraction: float
    training: dict[str, Any]
    state: TrialState
    reason: str | None
    step: int
    steps: int
    validation_loss: float | None
    preference_loss: float | None  # held-out
    validation_accuracy: float | None
    validation_margin: float | None
    win_rate: float | None
    win_rate_low: float | None
    win_rate_high: float | None
    wins: float | None
    ties: float | None
    losses: float | None
    kl: float | None
    kl_low: float | None
    kl_high: float | None
    kl_per_token: float | None
    lc_win_rate: float | None  # length-controlled, with its bootstrap error over prompts
    lc_error: float | None
    mean_length: float | None  # tokens
    mean_characters: float | None
    distinct_1: float | None  # of the words and pairs of words in its responses, how many are different ones
    distinct_2: float | None
    cut_share: float | None
    tokens_per_second: float | None  # the median step's, as those below
    mfu: float | None  # the share of a card's operations that training took at the least
    padding: float | None  # the share of tokens
    peak_memory: float | None  # bytes of a card
    attention: str | None
    seconds: float | None
    start_seconds: float | None
    benchmarks: dict[str, dict[str, Any]]  # figures by benchmark; those above are the first one's
    verdicts: str | None  # their folder below the study's
    checkpoint: str | None

    @property
    def finished(self) -> bool:
        """Whether it was trained to its end."""
        return self.state == TrialState.FINISHED

    @property
    def beta(self) -> float | None:
        """The method's β, where it has one."""
        value = self.parameters.get("beta")
        return None if value is None else float(value)


def trial_row(folder: StudyFolder, trial: dict[str, Any], evaluation: dict[str, Any], benchmark: str) -> TrialRow:
    """From a trial's entry in ``trials.json``, its folder and the evaluation; ``benchmark`` ranks trials."""
    place = folder.trial(trial["key"])
    record = place.read_record()
    start = read_json(place.start) or {}
    metrics = place.read_metrics()
    validated: dict[str, Any] = next((m for m in reversed(metrics) if LOSS in m), {})
    benchmarks = evaluation.get("benchmarks", {})
    figures = benchmarks.get(benchmark, {})
    rate, kl, point = figures.get("win_rate", {}), evaluation.get("kl", {}), trial["point"]
    controlled = figures.get("length_controlled", {})
    state = TrialState(trial["state"])
    kept = state == TrialState.FINISHED and (record is None or record.removed is None)
    return TrialRow(
        key=trial["key"],
        label=trial["label"],
        init=point["init"],
        method=trial["method"],
        title=trial["title"],
        ranking=trial["ranking"],
        parameters=point["parameters"],
        learning_rate=point["learning_rate"],
        seed=point["seed"],
        sft_weight=point["sft_weight"],
        align_weight=point["align_weight"],
        fraction=point["fraction"],
        training=point["training"],
        state=state,
        reason=(record and record.reason) or None,
        step=metrics[-1]["step"] if metrics else 0,
        steps=trial["steps"],
        validation_loss=validated.get(LOSS),
        preference_loss=validated.get(PREFERENCE_LOSS),
        validation_accuracy=validated.get(ACCURACY),
        validation_margin=validated.get(MARGIN),
        win_rate=rate.get("value"),
        win_rate_low=rate.get("low"),
        win_rate_high=rate.get("high"),
        wins=rate.get("wins"),
        ties=rate.get("ties"),
        losses=rate.get("losses"),
        kl=kl.get("per_response"),
        kl_low=kl.get("low"),
        kl_high=kl.get("high"),
        kl_per_token=kl.get("per_token"),
        lc_win_rate=controlled.get("value"),
        lc_error=controlled.get("standard_error"),
        mean_length=figures.get("mean_length"),
        mean_characters=figures.get("mean_characters"),
        distinct_1=figures.get("distinct_1"),
        distinct_2=figures.get("distinct_2"),
        cut_share=figures.get("cut_share"),
        tokens_per_second=median(m.get("tokens_per_second") for m in metrics),
        mfu=median(m.get("mfu") for m in metrics),
        padding=median(m.get("padding") for m in metrics),
        peak_memory=max((m["peak_memory"] for m in metrics if "peak_memory" in m), default=None),
        attention=metrics[-1].get("attention") if metrics else None,
        seconds=metrics[-1]["seconds"] if metrics else None,
        start_seconds=start.get("seconds"),
        benchmarks=benchmarks,
        verdicts=figures.get("verdicts"),
        checkpoint=str(place.model) if kept else None,
    )


def median(values: Iterable[float | None]) -> float | None:
    """The middle one of those that there are, the higher of two; None where there is none."""
    found = sorted(value for value in values if value is not None)
    return found[len(found) // 2] if found else None
