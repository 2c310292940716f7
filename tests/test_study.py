"""Study files: what they may say, and the one line that says what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from raydaa.errors import InputError
from raydaa.settings.base import Settings, validated
from raydaa.settings.training import TrainingSettings
from raydaa.study import Study
from tests.studies import micro, written

SHIPPED = sorted((Path(__file__).parents[1] / "search_spaces").glob("*.yaml"))
SHIPPED = [path for path in SHIPPED if path.stem != "toy"]  # it is no study; its own test loads it

# The example of the design, whole.
FULL = """
name: uf_8b
model: {source: meta-llama/Llama-3.1-8B}
data:
  sft: {source: HuggingFaceH4/ultrachat_200k, split: train_sft}
  preferences:
    {source: HuggingFaceH4/ultrafeedback_binarized, train: train_prefs, validation: test_prefs, fraction: 1.0}
  prompts: {source: alpaca_eval}
  max_length: 4096
sft: {learning_rate: 6.0e-6, epochs: 1, fractions: [1.0]}
training: {batch_size: 128, epochs: 1, warmup_ratio: 0.03, max_grad_norm: 2.0, adam_betas: [0.9, 0.95], precision: bf16}
search:
  init: sft
  learning_rate: [3e-7, 5.0e-7, 7.0e-7, 1.0e-6]
  seeds: [0]
  methods:
    - {name: dpo, beta: [0.001, 0.003, 0.005, 0.01, 0.05, 0.1]}
    - {name: simpo, beta: [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0], learning_rate: [6.0e-7]}
    - {name: orpo, beta: {low: 0.05, high: 2.0, log: true, num_trials: 12}}
    - {name: asft, beta: 1.0, init: base, sft_weight: 1.0, align_weight: [0.1, 1.0], training: {epochs: [1, 2]}}
    - {name: ipo, beta: 0.01, training.max_grad_norm: 1.0, length_normalized: true}
  sampler: grid
  early_stopping: {within: beta, rungs: [0.1, 0.3], keep: 0.5}
scaling: {workers: 8, gpus_per_worker: 1, accelerator: A100-80G, engine: auto, zero_stage: 3, concurrent_trials: auto}
generation: {engine: auto, temperature: 0.9, top_k: 40, top_p: 1.0, max_new_tokens: 4096}
evaluation:
  models: [sft]
  baseline: chosen
  judge: {kind: none}
  judge_trials: finished
  kl_prompts: 500
"""


def test_the_designs_example_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "uf_8b.yaml"
    path.write_text(FULL, encoding="utf-8")
    search = Study.load(path).settings.search
    assert search.learning_rate == (3e-7, 5e-7, 7e-7, 1e-6)
    assert search.methods[2].num_trials == 12
    assert search.methods[3].init == ("base",)
    assert search.methods[3].training == {"epochs": (1, 2)}
    assert search.methods[4].training == {"max_grad_norm": (1.0,)}
    assert search.methods[4].parameters == {"beta": (0.01,), "length_normalized": (True,)}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_studies_load(path: Path) -> None:
    assert Study.load(path).settings.name == path.stem


def test_resolved_study_loads_again(tmp_path: Path) -> None:
    study = Study.from_tree(micro())
    again = Study.from_tree(yaml.safe_load(yaml.safe_dump(study.settings.model_dump(mode="json"))))
    assert again.settings == study.settings


def test_overrides_by_either_spelling() -> None:
    study = Study.from_tree(micro())
    for path in ("search.methods.0.beta", "search.methods[0].beta"):
        assert study.with_values({path: [0.3, 0.4]}).settings.search.methods[0].parameters["beta"] == (0.3, 0.4)
    assert study.with_values({"training.epochs": 2}).settings.training.epochs == 2


def changed(path: str, value: Any) -> dict[str, Any]:
    return {path: value}


WRONG = [
    (changed("trainig", {}), "study: trainig: unknown key; choose from data, evaluation,"),
    (changed("training.batchsize", 1), "study: training.batchsize: unknown key; choose from adam_betas, attention"),
    (changed("search.methods[0].name", "dop"), "search.methods[0].name: 'dop' is not a method; choose from apo_zero"),
    (changed("search.methods[0].bta", 1), "search.methods[0].bta: unknown key for dpo; choose from beta"),
    (changed("search.methods[0].beta", 0), "search.methods[0].beta: 0 is not above 0"),
    (changed("search.methods[0].beta", [0.1, -1.0]), "search.methods[0].beta: -1.0 is not above 0"),
    (changed("search.methods[0].beta", "big"), "search.methods[0].beta: 'big' is not a finite number"),
    (changed("search.methods[0].beta", []), "beta: an empty list leaves nothing to search"),
    (changed("search.methods[0].beta", [0.1, 0.1]), "beta: [0.1, 0.1] names a value twice"),
    (changed("search.methods[0].beta", {"low": 0.1}), "beta: {'low': 0.1} is not a range"),
    (changed("search.methods[0].beta", {"low": 0.1, "high": 1.0}), "beta: a range has no grid"),
    (changed("search.methods[1].length_normalized", False), "search.methods[1].length_normalized: False has no odds"),
    (changed("search.methods[0].training", {"lr": 1}), "search.methods[0].training.lr: unknown key"),
    (changed("search.methods[0].training", {"epochs": "x"}), "training.epochs: 'x' is not a valid value"),
    (changed("search.methods[0]", {"name": "dpo"}), "search.methods[0].beta: dpo needs beta"),
    (changed("search.methods", []), "search.methods: []"),
    (changed("data.sft.weight", -1), "study: data.sft.weight: -1: input should be greater than 0"),
    (changed("data.sft", [{"source": "pocket"}, {"source": "x", "weight": 0}]), "study: data.sft[1].weight: 0: input"),
    (changed("data.preferences.fraction", [0.5, 1.5]), "data.preferences.fraction: 1.5 is not a share between 0 and 1"),
    (changed("data.preferences.fraction", {"low": 0.1, "high": 1.0}), "data.preferences.fraction: a range has no grid"),
    (changed("search.learning_rate", 0), "search.learning_rate: 0 is not a number above 0"),
    (changed("search.learning_rate", "fast"), "search.learning_rate: 'fast' is not a number above 0"),
    (changed("search.early_stopping.rungs", [0.5, 0.1]), "search.early_stopping.rungs: [0.5, 0.1] does not rise"),
    (changed("training.batch_size", 0), "training.batch_size: 0: input should be greater than 0"),
    (changed("training.precision", "fp8"), "training.precision: 'fp8': input should be 'bf16' or 'fp32'"),
    (changed("training", 3), "training: 3 is not a group of settings"),
    (changed("scaling", {"workers": 3}), "training.batch_size: 16 does not divide over 3 workers; use a multiple of 3"),
    (changed("data.sft", None), "search.init: 'sft' needs data.sft, which is missing"),
    (changed("search.methods[0].training", 5), "search.methods[0].training: 5 is not a group of settings"),
    (changed("search.methods[0].training", {"batch_size": ["32"]}), "training.batch_size: '32' is not a plain number"),
    (
        changed("search.methods[0].training", {"batch_size": {"low": 1, "high": 9}}),
        "search.methods[0].training.batch_size: only fractional numbers",
    ),
    (changed("search.seeds", [-1]), "search.seeds[0]: -1"),
    (changed("sft.fractions", []), "sft.fractions: []"),
    (changed("evaluation.baseline", "chosen"), "evaluation.baseline: 'chosen' needs prompts with a preferred response"),
    (
        changed("data.chat_template", {"arguments": {"a": [float("inf")]}}),
        "chat_template.arguments.a: has a number that JSON can't say",
    ),
    (changed("name", "a/b"), "name: 'a/b'"),
    (
        changed("evaluation.judge", {"kind": "openai", "model": "m", "parameters": {"t": float("nan")}}),
        "evaluation.judge.parameters.t: has a number that JSON can't say",
    ),
    (changed("search.methods[0].beta", "x"), "search.methods[0].beta"),
    (changed("evaluation.judge", "oracle"), "evaluation.judge.kind: 'oracle'"),
    (changed("search.methods[7].beta", 1), "search.methods[7]: there is no such entry; the list has 2"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_wrong_settings_are_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Study.from_tree(micro(), values)
    text = str(caught.value)
    assert message in text
    assert "\n" not in text


def kinds_below(kind: type[Settings]) -> list[type[Settings]]:
    return [kind, *(inner for sub in kind.__subclasses__() for inner in kinds_below(sub))]


def test_a_default_that_is_written_out_changes_no_key() -> None:
    """Where 1 would be another text than 1.0."""
    for kind in kinds_below(Settings):
        for name, field in kind.model_fields.items():
            if isinstance(field.default, int | float):
                written_out = TypeAdapter(field.annotation).validate_python(field.default)
                assert json.dumps(written_out) == json.dumps(field.default), f"{kind.__name__}.{name}"
    defaults = TrainingSettings()
    assert json.dumps(vars(validated(TrainingSettings, vars(defaults)))) == json.dumps(vars(defaults))


def test_bf16_with_stage_0_is_refused() -> None:
    scaling = {"engine": "deepspeed", "zero_stage": 0}
    with pytest.raises(InputError, match=r"scaling.zero_stage: 0 trains wrongly in bf16"):
        Study.from_tree(micro(scaling=scaling), {"training.precision": "bf16"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2\nb: 3", "line 2"),
        ("name: x\nname: y", "key 'name' stands twice"),
        ("- 1\n- 2", "holds no settings"),
        ("", "holds no settings"),
    ],
)
def test_broken_yaml(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        Study.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        Study.load(tmp_path / "no.yaml")


def test_code_needs_permission() -> None:
    values = {"model.trust_remote_code": True}
    with pytest.raises(InputError, match="add --allow-code"):
        Study.from_tree(micro(), values)
    assert Study.from_tree(micro(), values, allow_code=True).settings.model.trust_remote_code


def test_study_file_round_trip(tmp_path: Path) -> None:
    assert Study.load(written(tmp_path, micro())).settings == Study.from_tree(micro()).settings
