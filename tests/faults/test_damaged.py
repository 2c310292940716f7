"""Files that were altered, cut off or half-written are noticed, and what they held is made again."""

import shutil
from pathlib import Path

import pytest

from raydaa.store.artifacts import intact
from tests.command import Command
from tests.studies import done, table

pytestmark = pytest.mark.slow


def halve(path: Path) -> None:
    """As a machine that lost its power leaves a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def alter(path: Path) -> None:
    """One byte in the middle is another."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damaged_files_are_made_again(command: Command, undisturbed: tuple[Path, str]) -> None:
    folder, cache = command.folder / "damaged", command.folder / "damaged-cache"
    shutil.copytree(undisturbed[0], folder)
    shutil.copytree(command.folder / "cache" / "raydaa", cache)
    sft, trial = next(folder.glob("sft/*/model")), next(folder.glob("trials/*/model"))
    prepared = next(cache.glob("prepared/pairs/*/train.parquet"))
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/model/model.safetensors")}
    for path in (prepared, next(cache.glob("reference/*/train.parquet"))):
        halve(path)
    for path in (sft / "model.safetensors", trial / "model.safetensors", next(folder.glob("best/*/config.json"))):
        alter(path)
    for pattern in ("trials.json", "evaluation.json", "sweep.json", "data.json", "generations/*/responses.parquet"):
        halve(next(folder.glob(pattern)))
    arguments = ("run", str(command.folder / "micro.yaml"), "--output", str(folder), "--set", f"storage.cache={cache}")
    output = done(command.run(*arguments))
    for damaged in (sft, trial, prepared.parent):
        assert f"{damaged} is damaged and is not used" in output
    assert table(folder) == table(undisturbed[0])
    sealed = [path.parent for path in folder.rglob("manifest.json")]
    assert len(sealed) > 8
    assert all(intact(path) for path in sealed)
    again = [path for path, time in kept.items() if path.stat().st_mtime_ns != time]
    assert again == [trial / "model.safetensors"]
    assert "kept from before" not in output.partition("] align ")[0].partition("] sft ")[2]


def test_a_half_written_study_file_loses_nothing(command: Command, undisturbed: tuple[Path, str]) -> None:
    folder, output = undisturbed
    study = command.folder / "half.yaml"
    shutil.copy(command.folder / "micro.yaml", study)
    halve(study)
    refused = command.run("run", str(study), "--output", str(folder))
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"raydaa: {study}: ")
    assert refused.stderr.count("\n") == 1
    assert done(command.run("report", str(folder))).splitlines()[-1] == output.splitlines()[-1]
