"""A study folder as a run leaves it, with hostile text wherever text of others can come in."""

import json
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution

from raydaa.store.artifacts import write_json
from raydaa.store.tables import GENERATIONS, QUESTIONS, VERDICTS, write

LINK = "<a href='https://evil.example/'>a$b^$c</a>"  # of the few tags that Plotly reads; and no mathematics
HOSTILE = f"</script><script>document.title='owned'</script><img src=x onerror=alert(1)>{LINK}"
PROMPTS = 9
REFERENCES = [{"start": "sft", "methods": ["dpo", "nca"], "worker_seconds": 6.0, "pairs": 12}]
LABEL = f"validation (judge {LINK}, prompt tldr v1)"
FIGURES = {
    "length_controlled": {"value": 61.5, "standard_error": 2.5, "variant": HOSTILE},
    "mean_length": 8.0,
    "mean_characters": 40.0,
    "distinct_1": 0.2,
    "distinct_2": None,
    "cut_share": 0.0,
}


def trial(key: str, method: str, state: str, steps: int = 4, **changes: Any) -> dict[str, Any]:
    point = {
        "init": "sft",
        "method": method,
        "parameters": {"beta": 0.1},
        "learning_rate": 1e-3,
        "seed": 0,
        "sft_weight": 0.0,
        "align_weight": 1.0,
        "fraction": 1.0,
        "training": {},
    }
    ranking = "pointwise" if method == "nca" else "pairwise"
    traits = {"method": method, "title": method, "ranking": ranking}
    return {
        "key": key,
        "state": state,
        "steps": steps,
        "label": f"{method} {key} {HOSTILE}",
        "point": {**point, **changes},
        **traits,
    }


def hostile_study(study: Path) -> None:
    """Write a study with finished, stopped and failed trials into ``study``."""
    trials = [trial("a", "dpo", "finished"), trial("b", "nca", "finished"), trial("c", "dpo", "stopped", steps=8)]
    trials.append(trial("d", LINK, "failed", init=HOSTILE))
    write_json(study / "trials.json", trials)
    for number, entry in enumerate(trials):
        place = study / "trials" / entry["key"]
        reason = f"worker said {HOSTILE}" if entry["state"] == "failed" else ""
        write_json(place / "record.json", {"state": entry["state"], "reason": reason, "retry": False})
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
        write_json(place / "settings.json", {"batch_size": 2})
        (place / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
    rate = {"value": 70.0, "low": 60.0, "high": 80.0, "wins": 60.0, "ties": 20.0, "losses": 20.0}
    kl = {"per_response": 1.0, "low": 0.9, "high": 1.1, "per_token": 0.1}
    evaluation = {}
    for key, value in (("a", 70.0), ("b", 75.0)):
        figures = {"win_rate": {**rate, "value": value}, **FIGURES, **answers(study, key)}
        evaluation[key] = {"kl": kl, "benchmarks": {"validation": figures}}
    (study / "questions").mkdir()
    asked = [{"prompt_id": f"p{i}", "question": f"question {i} {HOSTILE}", "baseline": HOSTILE} for i in range(PROMPTS)]
    write(study / "questions" / "questions.parquet", asked, QUESTIONS)
    benchmark = {"name": "validation", "label": LABEL, "baseline": HOSTILE, "questions": "questions/questions.parquet"}
    parts = {"benchmarks": [benchmark], "trials": evaluation}
    write_json(study / "evaluation.json", {**parts, "models": {HOSTILE: {"benchmarks": {}}}, "notes": [HOSTILE]})
    write_json(study / "data.json", {"rows": {"train": 10}, "rejected": {HOSTILE: 2}, "notes": {}})
    (study / "study.yaml").write_text(f"name: {HOSTILE}\n")
    search(study, f"{HOSTILE}/dpo", trials=8)
    search(study, "few", trials=4)
    search(study, "all alike", trials=8, alike=True)
    write_json(study / "costs.json", {"gpus": 0.0, "workers": 2, "references": REFERENCES})


def answers(study: Path, key: str) -> dict[str, str]:
    """A model's responses, of which every third wins, ties or loses, and what is to be said of the places."""
    places = {"responses": f"generations/{key}", "verdicts": f"verdicts/{key}"}
    for place in places.values():
        (study / place).mkdir(parents=True)
    told = {"first": 1.0, "second": 0.0, "first_comment": f"says {HOSTILE}", "second_comment": None}
    responses = [{"prompt_id": f"p{i}", "response": f"{key} says {i} {HOSTILE}"} for i in range(PROMPTS)]
    verdicts = [{"prompt_id": f"p{i}", "outcome": (i % 3) / 2, **told} for i in range(PROMPTS)]
    write(study / places["responses"] / "responses.parquet", responses, GENERATIONS)
    write(study / places["verdicts"] / "verdicts.parquet", verdicts, VERDICTS)
    return places


def search(study: Path, name: str, trials: int, alike: bool = False) -> None:
    """An Optuna study in the folder's storage: two settings, of which one never varies."""
    storage = f"sqlite:///{study / 'optuna.db'}"
    made = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    for i in range(trials):
        space = {"learning_rate": CategoricalDistribution([1e-4, 1e-3]), "seed": CategoricalDistribution([0])}
        made.enqueue_trial({"learning_rate": [1e-4, 1e-3][i % 2], "seed": 0})
        made.tell(made.ask(space), 0.5 if alike else 0.5 + i / 100)
