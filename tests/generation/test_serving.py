"""What vLLM is started with."""

from pathlib import Path
from typing import Any

import pytest

from raydaa.generation.serving import Serving, available, config_of

pytestmark = pytest.mark.skipif(not available(), reason="vLLM is not installed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "there", "absent"),
    [
        ({"gpus": 0}, {"max_num_seqs": 64, "enforce_eager": True}, "gpu_memory_utilization"),
        ({"gpus": 1}, {"enforce_eager": False}, "max_num_seqs"),  # vLLM knows what fits
        ({"gpus": 1, "max_num_seqs": 8}, {"max_num_seqs": 8}, "gpu_memory_utilization"),
        ({"gpus": 0.5}, {"gpu_memory_utilization": 0.45}, "tensor_parallel_size"),  # another one has the other half
        ({"gpus": 4}, {"tensor_parallel_size": 4}, "gpu_memory_utilization"),
    ],
)
def test_engine_arguments(pocket_model: Path, settings: dict[str, Any], there: dict[str, Any], absent: str) -> None:
    made = config_of(Serving(model=pocket_model, **settings), whole_checkpoints=True).engine_kwargs
    assert {name: made[name] for name in there} == there
    assert absent not in made
