"""What tests share: the pocket world's base model, made once."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydaa.data import pocket

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")


@pytest.fixture(scope="session")
def pocket_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket world's freshly initialised model and tokenizer."""
    folder = tmp_path_factory.mktemp("pocket-model")
    pocket.write_model(folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data that lies beside the project on some machines."""
    folder = os.environ.get("RAYDAA_TEST_DATA")
    if not folder:
        pytest.skip("RAYDAA_TEST_DATA does not name a folder with real data")
    return Path(folder)


@pytest.fixture(scope="module")
def own_ray() -> Iterator[None]:
    """A Ray of this test module's own, with its own folder and ports."""
    from raydaa.cluster import connected

    folder = tempfile.mkdtemp(prefix="rd", dir="/tmp")  # sockets have short names only
    os.environ["RAY_TMPDIR"] = folder
    try:
        with connected(None):
            yield
    finally:
        del os.environ["RAY_TMPDIR"]
        shutil.rmtree(folder, ignore_errors=True)
