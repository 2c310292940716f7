"""Folders are whole or not there, and damage is noticed."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raydaa.store import artifacts
from raydaa.store.artifacts import intact, key_of, make_folder, model_hash, tokenizer_hash, write_json


def fill(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.txt").write_text("one")


def test_made_once(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "x", fill)
    assert not make_folder(tmp_path / "x", fill)


@pytest.mark.parametrize("damage", ["alter", "truncate", "remove", "add", "manifest"])
def test_damage_is_noticed_and_mended(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "x"
    make_folder(folder, fill)
    file = folder / "sub" / "a.txt"
    {
        "alter": lambda: file.write_text("two"),
        "truncate": lambda: file.write_text("o"),
        "remove": file.unlink,
        "add": lambda: (folder / "b.txt").write_text("?"),
        "manifest": lambda: (folder / "manifest.json").write_text('{"sub'),
    }[damage]()
    assert not intact(folder)
    assert make_folder(folder, fill)
    assert intact(folder)
    assert file.read_text() == "one"


@pytest.mark.parametrize("damaged", [False, True])
def test_two_at_once_make_one(tmp_path: Path, damaged: bool) -> None:
    together = threading.Barrier(2)

    def meet(folder: Path) -> None:
        fill(folder)
        together.wait(10)

    for number in range(20):
        folder = tmp_path / str(number)
        if damaged:
            folder.mkdir()
            (folder / "left").write_text("over")
        with ThreadPoolExecutor(2) as pool:
            made = list(pool.map(lambda _, here=folder: make_folder(here, meet), range(2)))
        assert any(made)
        assert damaged or not all(made)
        assert intact(folder)
    assert len(list(tmp_path.iterdir())) == 20


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError):
        make_folder(tmp_path / "x", fail)
    assert list(tmp_path.iterdir()) == []


def test_keys_depend_on_values_alone() -> None:
    assert key_of(a=1, b=[1, 2]) == key_of(b=[1, 2], a=1)
    assert key_of(a=1) != key_of(a=2)


def test_model_hash_sees_weights_and_architecture_only(tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        write_json(folder / "config.json", {"layers": 1})
    (tmp_path / "two" / "README.md").write_text("a note")
    assert model_hash(tmp_path / "one") == model_hash(tmp_path / "two")
    (tmp_path / "two" / "model.safetensors").write_bytes(b"others!")
    assert model_hash(tmp_path / "one") != model_hash(tmp_path / "two")


def test_a_tokenizer_is_the_same_whether_it_was_saved_offline_or_not(tmp_path: Path) -> None:
    """Else `plan`, which asks no hub, and `run` would disagree about every key of a study."""
    hashes = []
    for name, settings in {
        "online": {"eos_token": "x", "local_files_only": False},
        "offline": {"local_files_only": True, "eos_token": "x"},
        "other": {"eos_token": "y", "local_files_only": False},
    }.items():
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "tokenizer_config.json", settings)
        (tmp_path / name / "tokenizer.json").write_text("{}")
        hashes.append(tokenizer_hash(tmp_path / name))
    assert hashes[0] == hashes[1] != hashes[2]


def test_what_was_not_written_to_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of 16 GB, fifty of them, at every start."""
    folder = tmp_path / "model"

    def weights(place: Path) -> None:
        (place / "model.safetensors").write_bytes(bytes(1000))
        (place / "config.json").write_text("{}")

    make_folder(folder, weights)
    plain = tmp_path / "plain"
    plain.mkdir()
    weights(plain)
    expected, read = model_hash(plain), []
    before = artifacts.file_hash

    def note(path: Path) -> str:
        read.append(path.name)
        return before(path)

    monkeypatch.setattr(artifacts, "file_hash", note)
    assert intact(folder)
    assert model_hash(folder) == expected
    assert read == []
    copy = tmp_path / "copy"  # with times of its own, as on another machine
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    assert model_hash(copy) == expected
    assert intact(copy)
    assert sorted(set(read)) == ["config.json", "model.safetensors"]
    read.clear()
    assert intact(copy)
    assert read == []
    (copy / "model.safetensors").write_bytes(bytes(999) + b"1")
    assert not intact(copy)
    assert model_hash(copy) != expected
