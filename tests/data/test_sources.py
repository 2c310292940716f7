"""Rows from files, folders and the layouts that preference data comes in."""

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydaa.data.files import read_rows
from raydaa.data.rows import DataError
from raydaa.data.sources import BadRowError, conversation, messages_of, preference_pair, prompt_of

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
    assert conversation(INSTRUCTIONS[layout], names).messages == [asked, {"role": "assistant", "content": answer}]
    assert prompt_of(INSTRUCTIONS[layout], "prompt").messages == [asked]


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
    assert conversation({"messages": whole}, columns).messages == whole
    assert conversation({"prompt": "hi", "response": "yes"}, columns).messages == whole
    with pytest.raises(BadRowError, match="no assistant turn"):
        conversation({"messages": [USER]}, columns)


SYSTEM = {"role": "system", "content": "Be brief."}
YES, NO = {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
CALLS = [{"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
CALLED = [
    USER,
    {"role": "assistant", "content": "", "tool_calls": CALLS},
    {"role": "tool", "content": "3", "tool_call_id": "1"},
]
EMPTY = {"tool_calls": None, "tool_call_id": None, "name": None}  # as a columnar file fills what a message lacks
RICHER: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "answers of several turns go on from the prompt": (
        {"prompt": [USER], "chosen": [*TALK[1:], YES], "rejected": [*TALK[1:], NO]},
        TALK,
    ),
    "the prompt repeated with what follows it": (
        {"prompt": "hi", "chosen": [*TALK, YES], "rejected": [*TALK, NO]},
        TALK,
    ),
    "the prompt is the last question": ({"prompt": "bye", "chosen": [*TALK, YES], "rejected": [*TALK, NO]}, TALK),
    "a column system": ({"system": "Be brief.", "prompt": "hi", "chosen": "yes", "rejected": "no"}, [SYSTEM, USER]),
    "a column system_prompt": (
        {"system_prompt": "Be brief.", "chosen": [USER, YES], "rejected": [USER, NO]},
        [SYSTEM, USER],
    ),
    "a system message in the prompt alone": (
        {"prompt": [SYSTEM, USER], "chosen": [USER, YES], "rejected": [USER, NO]},
        [SYSTEM, USER],
    ),
    "a system message in the answers alone": (
        {"prompt": "hi", "chosen": [SYSTEM, USER, YES], "rejected": [SYSTEM, USER, NO]},
        [SYSTEM, USER],
    ),
    "the same system message twice": (
        {"system": "Be brief.", "prompt": [SYSTEM, USER], "chosen": "yes", "rejected": "no"},
        [SYSTEM, USER],
    ),
    "an instruction and its input": (
        {"instruction": "Add.", "input": "1 and 2", "chosen": "yes", "rejected": "no"},
        [{"role": "user", "content": "Add.\n\n1 and 2"}],
    ),
    "an instruction with its history": (
        {"instruction": "bye", "history": [["hi", "hello"]], "chosen": "yes", "rejected": "no"},
        TALK,
    ),
    "calls and what they returned": ({"prompt": CALLED, "chosen": "yes", "rejected": "no", "tools": TOOLS}, CALLED),
    "calls with empty fields": (
        {"prompt": [EMPTY | m for m in CALLED], "chosen": [EMPTY | YES], "rejected": [NO], "tools": json.dumps(TOOLS)},
        CALLED,
    ),
    "text in parts": (
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "chosen": "yes", "rejected": "no"},
        [USER],
    ),
}


@pytest.mark.parametrize("layout", RICHER)
def test_nothing_of_a_row_is_dropped(layout: str) -> None:
    row, prompt = RICHER[layout]
    pair = preference_pair(row, COLUMNS)
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, "yes", "no")
    assert pair.tools == (TOOLS if "tools" in row else None)


def test_an_answer_may_be_a_call() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": CALLS}
    pair = preference_pair({"prompt": "hi", "chosen": [call], "rejected": "no", "tools": TOOLS}, COLUMNS)
    assert pair.chosen == call
    talk = conversation({"messages": [*CALLED, YES], "tools": TOOLS}, {"messages": "messages"})
    assert (talk.messages, talk.tools) == ([*CALLED, YES], TOOLS)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "bye", "chosen": [USER, YES], "rejected": [USER, NO]}, "prompt disagrees with the conversation"),
        (
            {
                "prompt": [{**SYSTEM, "content": "?"}, USER],
                "chosen": [SYSTEM, USER, YES],
                "rejected": [SYSTEM, USER, NO],
            },
            "prompt disagrees with the conversation",
        ),
        ({"system": "?", "prompt": [SYSTEM, USER], "chosen": "y", "rejected": "n"}, "column system disagrees"),
        ({"prompt": "hi", "chosen": "yes", "rejected": "no", "tools": "{"}, "tools is not JSON"),
        ({"prompt": "hi", "chosen": "yes", "rejected": "no", "tools": 3}, "tools is not a list"),
    ],
)
def test_what_disagrees_is_a_reject(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRowError, match=reason):
        preference_pair(row, COLUMNS)


def test_json_lines_in_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for rows in (ROWS, ROWS[:1]):
        path.write_text(jsonl(rows))
        assert [row for _, row in read_rows(str(path), "train").rows] == rows


def test_half_a_surrogate_pair_is_a_reject(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(jsonl(ROWS) + '{"prompt": "\\ud83d", "note": "x"}\n{"prompt": "hi", "note": "\\ud83d"}\n')
    read = read_rows(str(path), "train", ["prompt"])
    assert [reject.row for reject in read.rejects] == [len(ROWS) + 1]
    assert read.rows[-1] == (len(ROWS) + 2, {"prompt": "hi"})
    assert read.columns[-1] == "note"


def test_a_split_column_that_begins_late(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(jsonl([ROWS[0], {**ROWS[1], "split": "train"}, {**ROWS[2], "split": "test"}]))
    read = read_rows(str(path), "train")
    assert [number for number, _ in read.rows] == [2]
    assert [(reject.row, reject.reason) for reject in read.rejects] == [(1, "names no split")]
    assert len(read_rows(str(path), None).rows) == 3


def test_only_columns_that_are_needed_are_read(tmp_path: Path) -> None:
    """Whatever else a file holds: times beyond Python's years, zones that nobody knows, text that is none."""
    far = pa.array([2**60, 1], pa.timestamp("us"))
    zone = pa.array([1, 2], pa.timestamp("us", tz="Mars/Olympus"))
    text = pa.array(["hi", "ho"])
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ab\xff", b"cd"]).buffers())
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"prompt": text, "far": far, "zone": zone, "bad": bad}), path)
    assert [row for _, row in read_rows(str(path), "train", ["prompt"]).rows] == [{"prompt": "hi"}, {"prompt": "ho"}]
    read = read_rows(str(path), "train", ["bad"])
    assert (read.rows, [reject.row for reject in read.rejects]) == ([(2, {"bad": "cd"})], [1])
    with pytest.raises(DataError, match=r"x\.parquet: is not a readable"):
        read_rows(str(path), "train", ["far"])


def test_a_damaged_archive_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(jsonl(ROWS).encode())[:10] + b"\xff" * 40)
    with pytest.raises(DataError, match=r"x\.jsonl\.gz: can't be read"):
        read_rows(str(path), "train")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "i", "history": 5, "chosen": "y", "rejected": "n"}, "history is not a list"),
        ({"prompt": "p", "chosen": "y", "rejected": "n", "tools": "[" * 100_000}, "tools is not JSON"),
        ({"prompt": [SYSTEM], "chosen": "y", "rejected": "n"}, "empty prompt"),
        ({"system": "Be brief.", "prompt": " ", "chosen": "y", "rejected": "n"}, "empty prompt"),
        ({"system": ["Be brief."], "prompt": "p", "chosen": "y", "rejected": "n"}, "column system is not text"),
        (
            {"system": "S", "system_prompt": "T", "prompt": "p", "chosen": "y", "rejected": "n"},
            "system_prompt disagrees",
        ),
    ],
)
def test_odd_rows_are_rejects(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRowError, match=reason):
        preference_pair(row, COLUMNS)


def test_a_column_of_whole_numbers_names_splits(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(jsonl([{"prompt": "a", "split": 0}, {"prompt": "b", "split": 1}, {"prompt": "c", "split": 1}]))
    assert [number for number, _ in read_rows(str(path), "1").rows] == [2, 3]
    with pytest.raises(DataError, match="no split 'train'; its column split has 0, 1"):
        read_rows(str(path), "train")


def test_an_instruction_says_all_that_it_is_about() -> None:
    row = {"instruction": "Sum up.", "input": "One.", "context": "Two.", "output": "y"}
    columns = {name: name for name in ("messages", "prompt", "response")}
    assert conversation(row, columns).messages[0]["content"] == "Sum up.\n\nOne.\n\nTwo."
    assert conversation({**row, "context": "One."}, columns).messages[0]["content"] == "Sum up.\n\nOne."


def test_calls_as_they_were_written_before_tools() -> None:
    function = {"name": "add", "arguments": '{"a": 1}'}
    messages = messages_of(
        [
            {"role": "assistant", "content": None, "function_call": function},
            {"role": "function", "name": "add", "content": "3"},
        ]
    )
    assert messages == [
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "name": "add", "content": "3"},
    ]


@pytest.mark.parametrize("prompt", [None, "", []])
def test_an_empty_prompt_beside_whole_conversations_is_none(prompt: Any) -> None:
    row = {"prompt": prompt, "chosen": [USER, YES], "rejected": [USER, NO]}
    assert preference_pair(row, COLUMNS).prompt == [USER]
