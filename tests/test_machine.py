"""Odd machines and odd callers: masks, locks, temporary folders, proxies; what is promised after errors."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest

from raydaa import cluster
from raydaa.cli import main
from raydaa.errors import InputError, is_passing
from raydaa.generation.harness import without_proxies
from raydaa.pipeline.lock import locked
from tests.studies import micro, written


def python(code: str, **environment: str) -> str:
    """What a new process prints."""
    run = [sys.executable, "-c", textwrap.dedent(code)]
    made = subprocess.run(run, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o002, 0o664, 0o775), (0o077, 0o600, 0o700)])
def test_results_are_as_readable_as_the_umask_says(tmp_path: Path, mask: int, file: int, folder: int) -> None:
    python(f"""
        import os; os.umask({mask})
        import numpy, pathlib
        from safetensors.numpy import save_file
        from raydaa.store.artifacts import make_folder, write_json
        def fill(place):
            save_file({{"w": numpy.zeros(2)}}, place / "model.safetensors")
            write_json(place / "config.json", {{}})
        make_folder(pathlib.Path({str(tmp_path)!r}) / "model", fill)
        write_json(pathlib.Path({str(tmp_path)!r}) / "alone.json", 1)
    """)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"model": folder, **dict.fromkeys(modes.keys() - {"model"}, file)}
    assert {"model.safetensors", "config.json", "manifest.json", "alone.json"} < set(modes)


def test_a_cache_that_cannot_be_written_is_noticed_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    study = written(tmp_path, micro(storage={"cache": str(tmp_path / "file" / "cache")}))
    assert main(["run", str(study), "--output", str(tmp_path / "out")]) == 2
    error = capfd.readouterr().err
    assert f"storage.cache: {tmp_path}/file/cache: can't be written: Not a directory" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("number", "locks"), [(errno.ENOLCK, False), (errno.EOPNOTSUPP, False), (None, True)])
def test_a_file_system_without_locks_is_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None, locks: bool
) -> None:
    def refuse(*_: Any) -> None:
        if number is not None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path) as known:
        assert known is locks


def test_another_run_is_told_by_its_lock(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match="another run is at work"), locked(tmp_path):
        pass


def test_long_temporary_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    assert cluster.short_temporary_folder() is None
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/" + "long" * 30)
    assert cluster.short_temporary_folder() == "/tmp"
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "long" * 30)
    with pytest.raises(InputError, match=r"^RAY_TMPDIR: /tmp/long.* is too long a path for sockets"):
        cluster.short_temporary_folder()


@pytest.mark.slow
def test_ray_starts_below_a_long_temporary_folder(tmp_path: Path) -> None:
    deep = tmp_path / ("a-folder-with-quite-a-long-name-" * 3)
    deep.mkdir()
    told = python(
        """
        from raydaa.cluster import connected
        with connected(None) as resources:
            print(resources.cpus > 0)
        """,
        TMPDIR=str(deep),
        RAY_TMPDIR="",
    )
    assert told.splitlines()[-1] == "True"


def test_nothing_is_packed_for_uv() -> None:
    told = python("""
        from raydaa.compat.ray import set_options
        set_options()
        from ray._private import ray_constants
        print(ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV)
    """)
    assert told == "False"


def test_proxies_do_not_hear_of_our_own_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.delenv("no_proxy", raising=False)
    with without_proxies():
        assert os.environ["NO_PROXY"] == "example.org,127.0.0.1,localhost,::1"
        assert os.environ["no_proxy"] == "127.0.0.1,localhost,::1"
    assert os.environ["NO_PROXY"] == "example.org"
    assert "no_proxy" not in os.environ


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (ConnectionError("Ray's process on this machine died"), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (chained(RuntimeError("a task failed"), OSError(errno.ENOSPC, "No space left on device")), True),
        (type("ActorDiedError", (Exception,), {})("gone"), True),
        (OSError(errno.ENOENT, "No such file"), False),
        (ValueError("GenerationConfig is invalid"), False),
        (chained(RuntimeError("a task failed"), TypeError("no such argument")), False),
    ],
)
def test_what_the_same_command_gets_over(error: Exception, passing: bool) -> None:
    assert is_passing(error) is passing
