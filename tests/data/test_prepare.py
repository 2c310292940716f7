"""The prepare stage: tables, rejects, keys."""

import json
from pathlib import Path
from typing import Any

import pytest

from raydaa.artifacts import intact
from raydaa.data import pocket
from raydaa.data.prepare import Inputs, TooManyRejectsError, open_inputs, prepare
from raydaa.data.sources import DataError
from raydaa.records import read
from raydaa.study import Study
from raydaa.training.model import load_tokenizer
from tests.studies import micro


def study(tmp_path: Path, rows: list[Any], **data: Any) -> Study:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    preferences = {"source": str(path), "validation": 0.3, **data.pop("preferences", {})}
    groups = {"sft": {"source": "preferences.chosen"}, "max_length": 64, "preferences": preferences, **data}
    return Study.from_tree(micro(data=groups, evaluation={"judge": "none"}))


def pair(i: int) -> dict[str, str]:
    words = pocket.CATEGORIES["animals"]
    listed = f"{words[i % 12]} {words[i // 12]}"
    return {"prompt": f"list the animals : {listed}", "chosen": "cat and dog", "rejected": "dog"}


def run(study: Study, model: Path, folder: Path) -> Inputs:
    inputs = open_inputs(study.settings, model)
    prepare(inputs, study.settings.data, load_tokenizer(model), folder)
    return inputs


def test_tables_and_report(tmp_path: Path, pocket_model: Path) -> None:
    rows = [pair(i) for i in range(40)]
    rows[3] = {**rows[3], "rejected": ""}
    rows[7] = {**rows[7], "rejected": rows[7]["chosen"]}
    run(study(tmp_path, [*rows, '{"broken": \n'], max_rejected_share=0.2), pocket_model, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["rejected"] == {
        "train: broken JSON": 1,
        "train: empty response": 1,
        "train: chosen equals rejected": 1,
    }
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert {(reject["row"], reject["reason"]) for reject in rejects} == {
        (4, "empty response"),
        (8, "chosen equals rejected"),
        (41, "broken JSON"),
    }
    assert report["rows"]["train"] + report["rows"]["validation"] == 38
    assert report["rows"]["sft"] == report["rows"]["train"]
    ids = [set(read(tmp_path / "out" / f"{name}.parquet")["pair_id"].to_pylist()) for name in ("train", "validation")]
    assert not ids[0] & ids[1]


def test_pairs_of_one_prompt_stay_together(tmp_path: Path, pocket_model: Path) -> None:
    rows = [{**pair(i % 10), "chosen": "cat and dog" if i < 10 else "cat"} for i in range(20)]
    run(study(tmp_path, rows), pocket_model, tmp_path / "out")
    tables = [read(tmp_path / "out" / f"{name}.parquet") for name in ("train", "validation")]
    prompts = [set(map(tuple, table["prompt_tokens"].to_pylist())) for table in tables]
    assert not prompts[0] & prompts[1]


def test_same_input_is_kept_and_damage_is_rebuilt(tmp_path: Path, pocket_model: Path) -> None:
    one = study(tmp_path, [pair(i) for i in range(40)])
    inputs = run(one, pocket_model, tmp_path / "out")
    tokenizer = load_tokenizer(pocket_model)
    assert not prepare(inputs, one.settings.data, tokenizer, tmp_path / "out")
    table = tmp_path / "out" / "train.parquet"
    table.write_bytes(table.read_bytes()[:-20])
    assert prepare(inputs, one.settings.data, tokenizer, tmp_path / "out")
    assert intact(tmp_path / "out")


def test_key_sees_data_and_lengths_not_names(tmp_path: Path, pocket_model: Path) -> None:
    rows = [pair(i) for i in range(10)]
    key = open_inputs(study(tmp_path, rows).settings, pocket_model).key
    assert key == open_inputs(study(tmp_path, rows, max_rejected_share=0.9).settings, pocket_model).key
    assert key != open_inputs(study(tmp_path, rows, max_length=32).settings, pocket_model).key
    assert key != open_inputs(study(tmp_path, rows[:-1]).settings, pocket_model).key


@pytest.mark.parametrize(
    ("rows", "data", "message"),
    [
        ([{**pair(i), "rejected": "cat and dog"} for i in range(10)], {}, r"10 of 10 rows can't be used \(chosen"),
        ([pair(0)], {}, "train has no usable pairs"),
        (
            [{**pair(i), "rejected": "cat and dog" if i % 3 else "no"} for i in range(30)],
            {},
            r"20 of 30 rows can't be used \(chosen equals rejected: 20; first rows: 2, 3, 5",
        ),
        ([pair(0)], {"preferences": {"columns": {"chosen": "best"}}}, "no column 'best'; it has prompt, chosen"),
        ([pair(0)], {"preferences": {"columns": {"winner": "best"}}}, "'winner' is not a field"),
        ([{"chosen": "a", "rejected": "b"}], {}, "no column 'prompt'"),
        (['{"a": \n'], {}, "holds no usable rows"),
        ([], {}, "the file is empty"),
    ],
)
def test_unusable_data(tmp_path: Path, pocket_model: Path, rows: list[Any], data: dict[str, Any], message: str) -> None:
    with pytest.raises((DataError, TooManyRejectsError), match=message):
        run(study(tmp_path, rows, **data), pocket_model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
