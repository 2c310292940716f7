"""How a model is served by vLLM, whoever asks it."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def available() -> bool:
    """Whether vLLM is installed here."""
    from importlib.util import find_spec

    return find_spec("vllm") is not None


class Serving(BaseModel):
    """How checkpoints of one architecture are served. ``model`` is the folder of the first."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: Path
    name: str | None = None  # what clients call it; the folder's name by default
    dtype: str = "auto"
    max_model_len: int | None = Field(default=None, gt=0)  # prompt and response; what the model allows by default
    max_num_seqs: int = Field(default=64, gt=0)
    cpus: float = Field(default=1, gt=0)  # of a replica
    gpus: float = Field(default=0, ge=0)
    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=1, gt=0)
    api_key_env: str | None = None  # name of the environment variable that holds the key

    @property
    def title(self) -> str:
        """What clients call the model."""
        return self.name or self.model.resolve().name


def config_of(serving: Serving, whole_checkpoints: bool = False) -> Any:
    """As `ray.serve.llm` wants it. ``whole_checkpoints``: a request is all of a checkpoint's prompts."""
    from ray.serve.llm import LLMConfig

    from raydaa.generation.replica import Replica

    engine: dict[str, Any] = {
        "dtype": serving.dtype,
        "max_num_seqs": serving.max_num_seqs,
        "enforce_eager": not serving.gpus,
        "generation_config": "vllm",  # sampling is ours; a checkpoint's own defaults must not mix in
    }
    if serving.max_model_len is not None:
        engine["max_model_len"] = serving.max_model_len
    environment = {"HF_HUB_OFFLINE": "1"}
    if not serving.gpus:
        # On CPU a request with a seed kills the engine when its prompt is prefilled in two pieces.
        engine |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(8192, serving.max_model_len or 0)}
        # The engine core in the replica's own process: loads faster.
        environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    one_at_a_time = {"max_ongoing_requests": 1} if whole_checkpoints else {}
    busy = 1 if whole_checkpoints else serving.max_num_seqs
    return LLMConfig(
        model_loading_config={"model_id": serving.title, "model_source": str(serving.model.absolute())},
        server_cls=Replica,
        accelerator_config={"kind": "gpu" if serving.gpus else "cpu"},
        placement_group_config={"bundles": [{"CPU": serving.cpus, **({"GPU": serving.gpus} if serving.gpus else {})}]},
        deployment_config={
            "autoscaling_config": {
                "min_replicas": serving.min_replicas,
                "initial_replicas": max(1, serving.min_replicas),
                "max_replicas": serving.max_replicas,
                "target_ongoing_requests": busy,
            },
            "ray_actor_options": {"num_cpus": 0},  # the bundle has them
            "health_check_timeout_s": 600,
            **one_at_a_time,
        },
        engine_kwargs=engine,
        runtime_env={"env_vars": environment},
    )
