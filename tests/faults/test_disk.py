"""A full disk ends a study with a word about it; with room again the same command goes on."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command
from tests.studies import begun, done, table

pytestmark = pytest.mark.slow


class SmallDisk:
    """A filesystem of its own with a set size, in memory."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        self._mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder))

    def _mount(self, *arguments: str) -> None:
        subprocess.run(["mount", *arguments], check=True, capture_output=True)

    def grow(self, megabytes: int) -> None:
        self._mount("-o", f"remount,size={megabytes}m", str(self.folder))

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    try:
        made = SmallDisk(tmp_path, 8)  # 0.3 of what is planned; two checkpoints at a time are more
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no filesystem can be mounted here: {error}")
    yield made
    made.close()


def test_a_full_disk(command: Command, undisturbed: tuple[Path, str], disk: SmallDisk) -> None:
    folder = begun(undisturbed[0], disk.folder / "study")
    arguments = ("run", str(command.folder / "micro.yaml"), "--output", str(folder))
    full = command.run(*arguments)
    assert full.returncode == 1
    assert "No space left on device" in full.stderr
    assert "the same command goes on from here" in full.stderr
    assert "] align " in full.stdout
    disk.grow(400)
    output = done(command.run(*arguments))
    assert output.count("kept from before") >= 3  # prepare, sft, reference
    assert table(folder) == table(undisturbed[0])
