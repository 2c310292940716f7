"""A process that was given a GPU and can't use it stops instead of training on the CPU."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raydaa.errors import machine_error
from raydaa.training import device
from tests.command import Command

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine's GPUs can be used")

SCRIPT = """
import ray
from raydaa.compat.ray import set_options
from raydaa.training.device import device_of_worker
from raydaa.training.workers import Workers, on_workers

set_options()
ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
asked = lambda: str(device_of_worker())
print(asked())
for gpus in (0.0, 1.0):
    workers = Workers(1, 1, gpus, None, threads=1, storage="", max_failures=0)
    try:
        print(on_workers(asked, workers))
    except Exception as error:
        print(error)
"""


@pytest.mark.slow
def test_it_says_which_gpu_and_why(tmp_path: Path) -> None:
    command = Command(tmp_path / "home")
    process = command.start_code(SCRIPT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert output.splitlines().count("cpu") == 2
    told = machine_error(output)
    assert command.wait_until_gone() == {}
    assert told is not None
    assert told.startswith(f"this process was given GPU 0 and can't use it: torch {torch.__version__} was built ")


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str | None, str], None]:
    """Tells of the driver that lies on this machine, and of what CUDA says."""

    def tell(driver: str | None, cuda: str) -> None:
        place = tmp_path / "version"
        if driver is not None:
            place.write_text(
                f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Thu Jan 1 2026\nGCC version: 12\n"
            )

        def init() -> None:
            raise RuntimeError(cuda)

        monkeypatch.setattr(device, "DRIVER", place)
        monkeypatch.setattr(device, "_given", lambda: ["3"])
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "init", init)

    return tell


@pytest.mark.parametrize(
    ("driver", "cuda", "told"),
    [
        (None, "", "was built for CUDA 13.0, and no NVIDIA driver is loaded"),
        (
            "570.86.15",
            "The NVIDIA driver on your system is too old (found version 12080). Please update",
            "was built for CUDA 13.0, the driver is 570.86.15: The NVIDIA driver on your system is too old "
            "(found version 12080). Please update",
        ),
    ],
)
def test_torchs_cuda_and_the_driver_are_named(
    given: Callable[[str | None, str], None], driver: str | None, cuda: str, told: str
) -> None:
    given(driver, cuda)
    with pytest.raises(device.MachineError) as error:
        device.device_of_worker()
    assert str(error.value) == f"this process was given GPU 3 and can't use it: torch {torch.__version__} {told}"
