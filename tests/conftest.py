"""What tests share: the pocket world's base model, made once."""

import os
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
