"""Rows from files, folders and the layouts that preference data comes in."""

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydaa.data.files import DataError, read_rows
from raydaa.data.sources import BadRowError, conversation, preference_pair, prompt_of

ROWS = [{"prompt": f"p{i}", "chosen": f"c{i}", "rejected": f"r{i}"} for i in range(4)]
COLUMNS = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
USER = {"role": "user", "content": "hi"}


def jsonl(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(params=["jsonl", "jsonl.gz", "parquet", "disk", "dict", "folder"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / f"data.{request.param}"
    if request.param == "jsonl":
        path.write_text(jsonl(ROWS), encoding="utf-8")
    elif request.param == "jsonl.gz":
        path.write_bytes(gzip.compress(jsonl(ROWS).encode()))
    elif request.param == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif request.param == "disk":
        datasets.Dataset.from_list(ROWS).save_to_disk(str(path))
    elif request.param == "dict":
        datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(path))
    else:  # a folder of files, as a hub repository is one: the hub loader itself reads it
        path.mkdir()
        (path / "train.jsonl").write_text(jsonl(ROWS), encoding="utf-8")
    return str(path)


def test_all_sources_give_the_same_rows(source: str) -> None:
    rows = read_rows(source, "train")
    assert [row for _, row in rows.rows] == ROWS
    assert [number for number, _ in rows.rows] == [1, 2, 3, 4]
    assert rows.fingerprint == read_rows(source, "train").fingerprint


def test_files_named_by_a_pattern_are_read_in_order(tmp_path: Path) -> None:
    for number, part in enumerate((ROWS[:2], ROWS[2:])):
        (tmp_path / f"part-{number}.jsonl").write_text(jsonl(part))
    (tmp_path / "other.jsonl").write_text("{}")
    for place in (str(tmp_path), f"file://{tmp_path}"):
        rows = read_rows(f"{place}/part-*.jsonl", "train")
        assert [row for _, row in rows.rows] == ROWS
        assert [number for number, _ in rows.rows] == [1, 2, 3, 4]
    with pytest.raises(DataError, match="there is no such file"):
        read_rows(f"{tmp_path}/none-*.jsonl", "train")
    with pytest.raises(DataError, match="only the last part of a path may hold"):
        read_rows(f"{tmp_path}/*/part-0.jsonl", "train")


@pytest.mark.parametrize("address", ["nowhere://x/y.jsonl", "file:///no/such/file.parquet"])
def test_an_address_that_is_nowhere(address: str) -> None:
    with pytest.raises(DataError, match=f"^{address}: .+$"):
        read_rows(address, "train")


INSTRUCTIONS = {
    "alpaca": {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    "alpaca without input": {"instruction": "Greet.", "input": "", "output": "Hello!"},
    "dolly": {"instruction": "Who?", "context": "Ada wrote it.", "response": "Ada", "category": "qa"},
}


@pytest.mark.parametrize(
    ("layout", "prompt", "answer"),
    [
        ("alpaca", "Add.\n\n1 and 2", "3"),
        ("alpaca without input", "Greet.", "Hello!"),
        ("dolly", "Who?\n\nAda wrote it.", "Ada"),
    ],
)
def test_instructions(layout: str, prompt: str, answer: str) -> None:
    names = {"messages": "messages", "prompt": "prompt", "response": "response"}
    asked = {"role": "user", "content": prompt}
    assert conversation(INSTRUCTIONS[layout], names) == [asked, {"role": "assistant", "content": answer}]
    assert prompt_of(INSTRUCTIONS[layout], "prompt") == [asked]


def test_split_column_filters(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(jsonl([{**row, "split": "test" if i else "train"} for i, row in enumerate(ROWS)]))
    assert [number for number, _ in read_rows(str(path), "test").rows] == [2, 3, 4]
    with pytest.raises(DataError, match="no split 'dev'; its column split has test, train"):
        read_rows(str(path), "dev")


def test_broken_lines_are_rejects(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(jsonl(ROWS[:1]) + '{"prompt": "x", \n' + "[1]\n\n" + jsonl(ROWS[1:2]))
    rows = read_rows(str(path), "train")
    assert [(reject.row, reject.reason) for reject in rows.rejects] == [(2, "broken JSON"), (3, "not a JSON object")]
    assert [number for number, _ in rows.rows] == [1, 5]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.jsonl", None, "there is no such file"),
        ("empty.jsonl", b"", "the file is empty"),
        ("bad.parquet", b"not parquet at all", "is not a readable Parquet file"),
        ("bad.jsonl.gz", b"not gzip", "can't be read"),
        ("x.csv", b"a,b", "can't be read; data files end in"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(str(path), "train")


def test_hub_id_that_can_not_be_fetched() -> None:
    with pytest.raises(DataError, match="nobody/nothing: split 'train' can't be loaded"):
        read_rows("nobody/nothing", "train")


def test_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(jsonl(ROWS))
    with pytest.raises(DataError, match="there is no column 'best'; it has prompt, chosen, rejected"):
        read_rows(str(path), "train").require(["best"])


TALK = [USER, {"role": "assistant", "content": "hello"}, {"role": "user", "content": "bye"}]
LAYOUTS: dict[str, dict[str, Any]] = {
    "text": {"prompt": "hi", "chosen": "yes", "rejected": "no"},
    "messages in the prompt": {"prompt": [USER], "chosen": "yes", "rejected": "no"},
    "messages in the answers": {
        "prompt": "hi",
        "chosen": [{"role": "assistant", "content": "yes"}],
        "rejected": [{"role": "assistant", "content": "no"}],
    },
    "whole conversations": {
        "prompt": "hi",
        "chosen": [USER, {"role": "assistant", "content": "yes"}],
        "rejected": [USER, {"role": "assistant", "content": "no"}],
    },
    "transcripts": {
        "chosen": "\n\nHuman: hi\n\nAssistant: yes",
        "rejected": "\n\nHuman: hi\n\nAssistant: no",
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_mean_the_same_pair(layout: str) -> None:
    pair = preference_pair(LAYOUTS[layout], COLUMNS)
    assert (pair.prompt, pair.chosen, pair.rejected) == ([USER], "yes", "no")


def test_multi_turn_context_is_kept() -> None:
    row = {"prompt": TALK, "chosen": "see you", "rejected": "go"}
    assert preference_pair(row, COLUMNS).prompt == TALK
    transcript = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: bye\n\nAssistant: see you"
    pair = preference_pair({"chosen": transcript, "rejected": transcript + "!"}, COLUMNS)
    assert (pair.prompt, pair.chosen) == (TALK, "see you")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "chosen": "", "rejected": "b"}, "empty response"),
        ({"prompt": "a", "chosen": None, "rejected": "b"}, "empty response"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen equals rejected"),
        ({"prompt": " ", "chosen": "b", "rejected": "c"}, "empty prompt"),
        ({"prompt": 3, "chosen": "b", "rejected": "c"}, "neither text nor chat messages"),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: x", "rejected": "\n\nHuman: b\n\nAssistant: y"},
            "answer different prompts",
        ),
    ],
)
def test_bad_pairs(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRowError, match=reason):
        preference_pair(row, COLUMNS)


def test_sft_layouts() -> None:
    columns = {"messages": "messages", "prompt": "prompt", "response": "response"}
    whole = [USER, {"role": "assistant", "content": "yes"}]
    assert conversation({"messages": whole}, columns) == whole
    assert conversation({"prompt": "hi", "response": "yes"}, columns) == whole
    with pytest.raises(BadRowError, match="no assistant turn"):
        conversation({"messages": [USER]}, columns)
