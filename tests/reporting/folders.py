"""A study folder as a run leaves it, with hostile text wherever text of others can come in."""

import json
from dataclasses import replace
from pathlib import Path

import optuna
from optuna.distributions import CategoricalDistribution

from raydaa.evaluation.figures import BenchmarkFigures, BenchmarkInfo, Evaluation, ModelFigures, ResponseFigures
from raydaa.evaluation.kl import Divergence
from raydaa.evaluation.length_control import LengthControlled
from raydaa.evaluation.win_rate import WinRate
from raydaa.store.artifacts import write_json
from raydaa.store.records import (
    CostRecord,
    DataReport,
    Point,
    ReferenceCost,
    Trial,
    TrialList,
    TrialRecord,
    TrialState,
)
from raydaa.store.study_folder import StudyFolder
from raydaa.store.tables import GENERATIONS, QUESTIONS, VERDICTS
from tests.training.runs import run_spec

LINK = "<a href='https://evil.example/'>a$b^$c</a>"  # of the few tags that Plotly reads; and no mathematics
HOSTILE = f"</script><script>document.title='owned'</script><img src=x onerror=alert(1)>{LINK}"
PROMPTS = 9
REFERENCES = (ReferenceCost("sft", ("dpo", "nca"), pairs=12, worker_seconds=6.0),)
LABEL = f"validation (judge {LINK}, prompt tldr v1)"
RESPONSES = ResponseFigures(mean_length=8.0, mean_characters=40.0, distinct_1=0.2, cut_share=0.0)
CONTROLLED = LengthControlled(61.5, 2.5, 1.0, None, HOSTILE, PROMPTS)
RATE = WinRate(value=70.0, standard_error=5.0, low=60.0, high=80.0, wins=60.0, ties=20.0, losses=20.0, prompts=PROMPTS)
KL = Divergence(1.0, 0.9, 1.1, 0.1, 0.05, 0.15, log_ratio=1.2, log_ratio_low=0.7, log_ratio_high=1.7, largest=0.1)


def trial(key: str, method: str, state: str, steps: int = 4, init: str = "sft") -> Trial:
    point = Point(init, method, {"beta": 0.1}, learning_rate=1e-3, seed=0)
    ranking = "pointwise" if method == "nca" else "pairwise"
    return Trial(key, method, method, ranking, TrialState(state), steps, f"{method} {key} {HOSTILE}", point)


def hostile_study(study: Path) -> None:
    """Write a study with finished, stopped and failed trials into ``study``."""
    trials = [trial("a", "dpo", "finished"), trial("b", "nca", "finished"), trial("c", "dpo", "stopped", steps=8)]
    trials.append(trial("d", LINK, "failed", init=HOSTILE))
    at = StudyFolder(study)
    at.write_format()
    at.trial_list.write(TrialList(tuple(trials)))
    for number, entry in enumerate(trials):
        place = at.trial(entry.key)
        reason = f"worker said {HOSTILE}" if entry.state == TrialState.FAILED else ""
        place.record.write(TrialRecord(entry.state, reason))
        metrics = {
            "step": 4,
            "loss": 0.5,
            "seconds": 2.0,
            "tokens_per_second": 100.0,
            "validation/loss": 0.6,
            "validation/preference_loss": 0.6 - number / 100,
            "validation/rewards/accuracies": 0.6 + number / 100,
            "validation/rewards/margins": 0.1,
        }
        write_json(place.spec, run_spec(batch_size=2).to_json())
        place.metrics.write_text(json.dumps(metrics) + "\n")
    evaluation = {}
    for key, value in (("a", 70.0), ("b", 75.0)):
        figures = replace(answers(study, key), win_rate=replace(RATE, value=value), length_controlled=CONTROLLED)
        evaluation[key] = ModelFigures(KL, {"validation": figures})
    (study / "questions").mkdir()
    asked = [{"prompt_id": f"p{i}", "question": f"question {i} {HOSTILE}", "baseline": HOSTILE} for i in range(PROMPTS)]
    QUESTIONS.write(study / "questions", asked)
    benchmark = BenchmarkInfo("validation", LABEL, HOSTILE, "questions/questions.parquet")
    at.evaluation.write(Evaluation((benchmark,), evaluation, {HOSTILE: ModelFigures()}, (HOSTILE,)))
    at.data_report.write(DataReport({"train": 12}, {"train": 10}, {HOSTILE: 2}, {}))
    (study / "study.yaml").write_text(f"name: {HOSTILE}\n")
    search(study, f"{HOSTILE}/dpo", trials=8)
    search(study, "few", trials=4)
    search(study, "all alike", trials=8, alike=True)
    at.costs.write(CostRecord(gpus=0.0, workers=2, references=REFERENCES))


def answers(study: Path, key: str) -> BenchmarkFigures:
    """A model's responses, of which every third wins, ties or loses, and what is to be said of the places."""
    places = {"responses": f"generations/{key}", "verdicts": f"verdicts/{key}"}
    for place in places.values():
        (study / place).mkdir(parents=True)
    told = {"first": 1.0, "second": 0.0, "first_comment": f"says {HOSTILE}", "second_comment": None}
    responses = [{"prompt_id": f"p{i}", "response": f"{key} says {i} {HOSTILE}"} for i in range(PROMPTS)]
    verdicts = [{"prompt_id": f"p{i}", "outcome": (i % 3) / 2, **told} for i in range(PROMPTS)]
    GENERATIONS.write(study / places["responses"], responses)
    VERDICTS.write(study / places["verdicts"], verdicts)
    return BenchmarkFigures(answers=places["responses"], verdicts=places["verdicts"], responses=RESPONSES)


def search(study: Path, name: str, trials: int, alike: bool = False) -> None:
    """An Optuna study in the folder's storage: two settings, of which one never varies."""
    storage = f"sqlite:///{study / 'optuna.db'}"
    made = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    for i in range(trials):
        space = {"learning_rate": CategoricalDistribution([1e-4, 1e-3]), "seed": CategoricalDistribution([0])}
        made.enqueue_trial({"learning_rate": [1e-4, 1e-3][i % 2], "seed": 0})
        made.tell(made.ask(space), 0.5 if alike else 0.5 + i / 100)
