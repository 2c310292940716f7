"""Results on disk: keyed by what they depend on, written whole or not at all, checked before they are trusted."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
CHECKED = ".checked.json"  # of a sealed folder: sizes and times of files whose content is the manifest's
TOKENIZER_FILES = ("tokenizer*", "*.model", "vocab*", "merges*", "special_tokens*", "chat_template*", "added_tokens*")
TOKENIZER_CONFIG = "tokenizer_config.json"
OFFLINE = "local_files_only"
_MASK = os.umask(0)  # it can only be read by setting it
os.umask(_MASK)


def key_of(**inputs: Any) -> str:
    """A short hash of the inputs' canonical JSON; the same inputs give the same key on every machine."""
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` in one step: a reader sees the old text or the new one, never half of it."""
    with replacing(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes ``path``'s place at the end, whole; after an error the old one stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _as_umask_says(Path(temporary))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _as_umask_says(path: Path) -> None:
    """Give a file or folder the mode of any new one: temporary ones, and safetensors', are hidden from others."""
    path.chmod((0o777 if path.is_dir() else 0o666) & ~_MASK)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in ``path``, or None where there is no whole file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def files_below(folder: Path) -> list[Path]:
    """All files below a folder except its manifest and those that were never whole, in a fixed order."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST and not p.name.startswith("."))


def intact(folder: Path) -> bool:
    """Whether a sealed folder still holds exactly the bytes it was sealed with.

    Files that have not been written to since their content was last compared are not read again.
    """
    if not (folder / MANIFEST).exists():
        return False
    manifest = read_json(folder / MANIFEST)
    marks = marks_below(folder)
    checked = read_json(folder / CHECKED)
    checked = checked if isinstance(checked, dict) else {}
    if isinstance(manifest, dict) and set(marks) == set(manifest):
        changed = [name for name, mark in marks.items() if checked.get(name) != mark]
        if all(file_hash(folder / name) == manifest[name] for name in changed):
            if changed:
                _note_checked(folder, marks)
            return True
    logger.warning("%s is damaged and is not used", folder)
    return False


def _mark(path: Path) -> list[int]:
    """What changes whenever a file is written to."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def marks_below(folder: Path) -> dict[str, list[int]]:
    """Size and time of every file below a folder."""
    return {str(path.relative_to(folder)): _mark(path) for path in files_below(folder)}


def _note_checked(folder: Path, marks: dict[str, list[int]]) -> None:
    with contextlib.suppress(OSError):  # it only spares reading
        write_json(folder / CHECKED, marks)


def make_folder(folder: Path, fill: Callable[[Path], None]) -> bool:
    """Make ``folder`` by ``fill`` unless an intact one is there; True when it was made.

    The content is written under a temporary name beside it, sealed with checksums, then renamed. A damaged
    folder is made again.
    """
    if intact(folder):
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        fill(temporary)
        seal(temporary)
        return _take_place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_place(temporary: Path, folder: Path) -> bool:
    """Give a sealed folder its name, unless another process has made the same content first.

    Only the renaming itself decides between two that are ready at once; what is damaged is moved aside first.
    """
    while True:
        try:
            temporary.rename(folder)
            return True
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if intact(folder):
            return False
        with contextlib.suppress(FileNotFoundError):  # the other one may be moving it aside as well
            folder.rename(temporary.with_name(f"{temporary.name}.damaged"))
        shutil.rmtree(temporary.with_name(f"{temporary.name}.damaged"), ignore_errors=True)


def renew_files(folder: Path, fill: Callable[[Path], None]) -> None:
    """Replace the files that ``fill`` writes, all after the last of them is whole; other files in ``folder`` stay."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".new."))
    try:
        fill(temporary)
        for path in temporary.iterdir():
            _as_umask_says(path)
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def seal(folder: Path) -> None:
    """Write the manifest that `intact` checks; the files are as readable as others of this user's."""
    for path in (folder, *folder.rglob("*")):
        _as_umask_says(path)
    files = {str(path.relative_to(folder)): path for path in files_below(folder)}
    for path in files.values():
        with path.open("rb") as file:  # else a machine that loses its power may keep sizes and times of lost content
            os.fsync(file.fileno())
    write_json(folder / MANIFEST, {name: file_hash(path) for name, path in files.items()})
    _note_checked(folder, marks_below(folder))


def model_hash(folder: Path) -> str:
    """Identity of a checkpoint: its weights and architecture, not its path nor its notes.

    What was sealed and has not been written to since is not read again.
    """
    paths = sorted([*folder.glob("*.safetensors"), *folder.glob("config.json")])
    sealed, checked = (read_json(folder / name) or {} for name in (MANIFEST, CHECKED))

    def digest(path: Path) -> str:
        known = path.name in sealed and checked.get(path.name) == _mark(path)
        return sealed[path.name] if known else file_hash(path)

    return key_of(files={path.name: digest(path) for path in paths})


def tokenizer_hash(folder: Path) -> str:
    """Identity of a tokenizer with its chat template."""
    files = {path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()}
    hashes = {path.name: file_hash(path) for path in sorted(files)}
    config = read_json(folder / TOKENIZER_CONFIG)
    if isinstance(config, dict):  # in which transformers also writes down whether it was offline when it loaded it
        config.pop(OFFLINE, None)
        hashes[TOKENIZER_CONFIG] = key_of(config=json.dumps(config, sort_keys=True))
    return key_of(files=hashes)
