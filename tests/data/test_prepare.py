"""The prepare stage: tables, rejects, keys."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raydaa.data.batches import subset
from raydaa.data.inputs import open_inputs
from raydaa.data.prepare import Preparation, TooManyRejectsError
from raydaa.data.rows import DataError
from raydaa.errors import InputError
from raydaa.pocket import world as pocket
from raydaa.store.artifacts import key_of
from raydaa.store.tables import read
from raydaa.study import Study
from raydaa.training.tokenizer import load_tokenizer
from tests.studies import micro
from tests.tables import folder_of, prepare


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


def test_tables_and_report(tmp_path: Path, pocket_model: Path) -> None:
    rows = [pair(i) for i in range(40)]
    rows[3] = {**rows[3], "rejected": ""}
    rows[7] = {**rows[7], "rejected": rows[7]["chosen"]}
    tables = prepare(study(tmp_path, [*rows, '{"broken": \n'], max_rejected_share=0.2), pocket_model, tmp_path / "out")
    report = tables.read_report()
    assert report.rejected == {
        "train: broken JSON": 1,
        "train: empty response": 1,
        "train: chosen equals rejected": 1,
    }
    rejects = [json.loads(line) for group in tables.groups for line in group.read_rejects().splitlines()]
    assert {(reject["row"], reject["reason"]) for reject in rejects} == {
        (4, "empty response"),
        (8, "chosen equals rejected"),
        (41, "broken JSON"),
    }
    assert report.read["train"] == 41
    assert report.rows["train"] + report.rows["validation"] == 38
    assert report.rows["sft"] == report.rows["train"]
    ids = [set(pairs(tables, name)["pair_id"].to_pylist()) for name in ("train", "validation")]
    assert not ids[0] & ids[1]


def pairs(tables: Preparation, name: str) -> pa.Table:
    return read(folder_of(tables, "pairs") / f"{name}.parquet")


def test_pairs_of_one_prompt_stay_together(tmp_path: Path, pocket_model: Path) -> None:
    rows = [{**pair(i % 10), "chosen": "cat and dog" if i < 10 else "cat"} for i in range(20)]
    tables = prepare(study(tmp_path, rows), pocket_model, tmp_path / "out")
    prompts = [set(map(tuple, pairs(tables, name)["prompt_tokens"].to_pylist())) for name in ("train", "validation")]
    assert not prompts[0] & prompts[1]


def test_same_input_is_kept_and_damage_is_rebuilt(tmp_path: Path, pocket_model: Path) -> None:
    one = study(tmp_path, [pair(i) for i in range(40)])
    tables = prepare(one, pocket_model, tmp_path / "out")
    table = folder_of(tables, "pairs") / "train.parquet"
    made, content = table.stat().st_mtime_ns, table.read_bytes()
    prepare(one, pocket_model, tmp_path / "out")
    assert table.stat().st_mtime_ns == made
    table.write_bytes(content[:-20])
    prepare(one, pocket_model, tmp_path / "out")
    assert table.read_bytes() == content


def test_keys_see_what_their_tables_depend_on(tmp_path: Path, pocket_model: Path) -> None:
    rows = [pair(i) for i in range(10)]

    def keys(rows: list[Any], **data: Any) -> dict[str, str]:
        depends_on = open_inputs(study(tmp_path, rows, **data).settings, pocket_model).depends_on
        return {name: key_of(**parts) for name, parts in depends_on.items()}

    base = keys(rows)
    assert keys(rows, max_rejected_share=0.9) == base
    fewer_prompts = keys(rows, prompts={"num": 3})
    assert (fewer_prompts["pairs"], fewer_prompts["sft"]) == (base["pairs"], base["sft"])
    assert fewer_prompts["prompts"] != base["prompts"]
    own_sft = keys(rows, sft={"source": "pocket"})
    assert (own_sft["pairs"], own_sft["prompts"]) == (base["pairs"], base["prompts"])
    assert own_sft["sft"] != base["sft"]
    for other in (keys(rows, max_length=32), keys(rows[:-1]), keys(rows, preferences={"validation": 0.4})):
        assert all(other[name] != base[name] for name in base)


def test_mixtures_of_sft_sources(tmp_path: Path, pocket_model: Path) -> None:
    chats = [{"instruction": "name an animal", "input": "", "output": word} for word in ("cat", "dog", "", "bee")]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    mixture = [
        {"source": "preferences.chosen", "weight": 0.5},
        {"source": str(tmp_path / "chats.jsonl"), "weight": 2.5},
    ]
    tables = prepare(
        study(tmp_path, [pair(i) for i in range(20)], sft=mixture, max_rejected_share=0.3), pocket_model, tmp_path / "o"
    )
    assert tables.read_report().rejected == {"sft[1]: empty response": 1}
    assert tables.read_report().read["sft[1]"] == 4
    half = round(tables.read_report().rows["train"] / 2)
    assert tables.read_report().rows["sft"] == half + 3 * 2 + 2  # half of three is two, rounded to even
    with pytest.raises(TooManyRejectsError, match=r"chats\.jsonl: 1 of 4 rows can't be used"):
        prepare(study(tmp_path, [pair(i) for i in range(20)], sft=mixture), pocket_model, tmp_path / "other")


def test_a_lowered_share_is_checked_again(tmp_path: Path, pocket_model: Path) -> None:
    rows = [{**pair(i), "rejected": "cat and dog" if i % 3 == 0 else "no"} for i in range(30)]
    prepare(study(tmp_path, rows, max_rejected_share=0.5), pocket_model, tmp_path / "out")
    with pytest.raises(TooManyRejectsError, match="10 of 30 rows"):
        prepare(study(tmp_path, rows, max_rejected_share=0.1), pocket_model, tmp_path / "out")


def test_a_named_split_needs_its_column(tmp_path: Path, pocket_model: Path) -> None:
    one = study(tmp_path, [pair(i) for i in range(9)], preferences={"validation": "test"})
    with pytest.raises(DataError, match="has no column split, so 'test' can't be held out"):
        prepare(one, pocket_model, tmp_path / "out")


def test_prompts_that_the_template_refuses_are_rejects(tmp_path: Path, pocket_model: Path) -> None:
    tokenizer = load_tokenizer(pocket_model)
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + pocket.TEMPLATE
    )
    system = [{"role": "system", "content": "be nice"}]
    rows = [pair(i) for i in range(30)]
    rows += [{**pair(i), "prompt": [*system, {"role": "user", "content": f"cat {i}"}]} for i in range(2)]
    one = study(tmp_path, rows)
    tables = prepare(one, pocket_model, tmp_path / "out", tokenizer)
    assert tables.read_report().rejected["train: the chat template refuses the conversation: no system turn"] == 2


@pytest.mark.parametrize(
    ("rows", "data", "message"),
    [
        ([{**pair(i), "rejected": "cat and dog"} for i in range(10)], {}, r"10 of 10 rows can't be used \(chosen"),
        ([pair(0)], {}, "no usable row is left for train"),
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
        prepare(study(tmp_path, rows, **data), pocket_model, tmp_path / "out")


def test_each_pair_once_and_uniquely_preferred_responses(tmp_path: Path, pocket_model: Path) -> None:
    """One comparison judged again, a response preferred twice, and one that is preferred here and rejected there."""
    good, fair, bad = "sure , cat", "cat", "dog"
    made = [(good, bad), (good, bad), (good, fair), (fair, bad)]
    rows = [{"prompt": p["prompt"], "chosen": c, "rejected": r} for p in map(pair, range(20)) for c, r in made]
    unique = {"preferences": {"unique": True}, "sft": {"source": "preferences.chosen", "unique": True}}
    tables = prepare(study(tmp_path, rows, **unique), pocket_model, tmp_path / "out")
    assert tables.read_report().rows["train"] + tables.read_report().rows["validation"] == 60
    assert tables.read_report().notes["train: the same pair once more, left out"] == 20
    prompts = tables.read_report().rows["train"] // 3
    assert tables.read_report().rows["sft"] == prompts
    assert tables.read_report().notes["sft: not uniquely preferred, left out"] == 2 * prompts
    texts = [
        load_tokenizer(pocket_model).decode(t)
        for t in read(folder_of(tables, "sft") / "sft.parquet")["tokens"].to_pylist()
    ]
    assert all(good in text for text in texts)
    every = prepare(study(tmp_path, rows), pocket_model, tmp_path / "out")
    assert every.read_report().rows["sft"] == every.read_report().rows["train"] == 4 * prompts


def test_only_preferred_responses_can_be_unique(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.sft\.unique: tells preferred responses from rejected ones"):
        study(tmp_path, [pair(0)], sft={"source": "pocket", "unique": True})


def test_fractions_of_ultrachat_have_the_papers_counts() -> None:
    counts = [len(subset(207_865, share)) for share in (0.01, 0.03, 0.05, 0.10, 0.25, 0.50, 1.0)]
    assert counts == [2079, 6236, 10_393, 20_786, 51_966, 103_932, 207_865]
    assert set(subset(207_865, 0.03)) < set(subset(207_865, 0.05))
