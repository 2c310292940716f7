"""Finished results in an object store: sent as they come, and fetched by a machine that has none of them.

What is sealed (models, responses, verdicts, reference log-probabilities) is sent once, its manifest last, so that what
arrived in part is no result. The rest are small files, sent anew each time. Checkpoints of running trials stay at home.
"""

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from raydaa.errors import RaydaaError, first_line
from raydaa.store.artifacts import MANIFEST, replacing

HERE_ONLY = ("checkpoint", "ray", "logs")  # folders of a study that only the machine at work needs
STUDY, REFERENCE = "study", "reference"  # below the mirror's root


class MirrorError(RaydaaError, OSError):
    """The store can't be reached, read or written; one line."""


class Mirror:
    """Folders below ``url`` (any file system of pyarrow's, such as ``s3://bucket/studies/mine``)."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self.system, root = fs.FileSystem.from_uri(url)
        except (OSError, pa.ArrowException) as error:
            raise MirrorError(f"{url}: {first_line(error)}") from None
        self.root = root.rstrip("/")

    def push(self, folder: Path, name: str) -> None:
        """Send what is finished below ``folder``; MirrorError where the store does not take it."""
        try:
            there = self._there(name)
            files = _finished(folder)
            manifests = [path for path in files if path.name == MANIFEST]
            sent = {path.parent for path in manifests if self._same_manifest(path, folder, name, there)}
            for path in files:
                if sent.isdisjoint(path.parents):
                    self._put(path, f"{self.root}/{name}/{path.relative_to(folder).as_posix()}")
        except (OSError, pa.ArrowException) as error:
            raise MirrorError(f"{self.url}: {first_line(error)}") from None

    def drop(self, name: str) -> None:
        """Forget the folder ``name``; MirrorError where the store does not let go of it."""
        try:
            if self._there(name):
                self.system.delete_dir(f"{self.root}/{name}")
        except (OSError, pa.ArrowException) as error:
            raise MirrorError(f"{self.url}: {first_line(error)}") from None

    def pull(self, folder: Path, name: str) -> int:
        """Fetch the files that ``folder`` does not hold, and say how many; MirrorError where they can't be read."""
        fetched = 0
        try:
            names = sorted(self._there(name), key=lambda relative: (relative.endswith(MANIFEST), relative))
            for relative in names:
                target = folder / relative
                if target.exists():
                    continue
                self._get(f"{self.root}/{name}/{relative}", target)
                fetched += 1
        except (OSError, pa.ArrowException) as error:
            raise MirrorError(f"{self.url}: {first_line(error)}") from None
        return fetched

    def _there(self, name: str) -> dict[str, int]:
        """Path and size of every file below ``name``."""
        root = f"{self.root}/{name}"
        infos = self.system.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
        return {info.path[len(root) + 1 :]: info.size for info in infos if info.type == fs.FileType.File}

    def _same_manifest(self, manifest: Path, folder: Path, name: str, there: dict[str, int]) -> bool:
        relative = manifest.relative_to(folder).as_posix()
        if there.get(relative) != manifest.stat().st_size:
            return False
        with self.system.open_input_stream(f"{self.root}/{name}/{relative}") as stream:
            return bool(stream.read() == manifest.read_bytes())

    def _put(self, path: Path, target: str) -> None:
        self.system.create_dir(target.rpartition("/")[0], recursive=True)
        with path.open("rb") as source, self.system.open_output_stream(target) as sink:
            shutil.copyfileobj(source, sink, length=1 << 22)

    def _get(self, source: str, target: Path) -> None:
        with replacing(target) as sink, self.system.open_input_stream(source, compression=None) as stream:
            shutil.copyfileobj(stream, sink, length=1 << 22)


def _finished(folder: Path) -> list[Path]:
    """Files to send, those of a sealed folder before its manifest."""
    files = []
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part in HERE_ONLY or part.startswith(".") for part in parts):
            files.append(path)
    return sorted(files, key=lambda path: (path.name == MANIFEST, path))


@cache
def _sender() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "mirror")


def push_in_background(mirror: Mirror, folder: Path, name: str) -> "Future[None]":
    """`Mirror.push` while the caller goes on."""
    return _sender().submit(mirror.push, folder, name)
