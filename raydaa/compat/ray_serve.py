"""Ray Serve and its LLM module, 2.60, around vLLM 0.32."""

from typing import Any


def engine_class() -> Any:
    """Ray's vLLM engine; on CPUs the model runs in vLLM's own process: a worker beside it would import all of it again,
    a quarter of a minute of each replica's start."""
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine

    class Engine(VLLMEngine):
        def _prepare_engine_config(self, callback_ctx: Any) -> Any:
            args, frontend, config = super()._prepare_engine_config(callback_ctx)
            if config.parallel_config.distributed_executor_backend == "mp":
                config.parallel_config.distributed_executor_backend = "uni"
            return args, frontend, config

    return Engine


def download_nothing(config: Any) -> None:
    """The checkpoint is a folder: looking for something to download would still take a process that imports vLLM."""
    config.get_or_create_callback().ctx.run_init_node = False


def model_folder(config: Any) -> str:
    """What an engine of this configuration loads at first."""
    return str(config.get_engine_config().actual_hf_model_id)


def vllm_client(engine: Any) -> Any:
    """vLLM's own engine in Ray's: OpenAI's protocol would carry text, and a list of log-probabilities per token."""
    return engine._engine_client


def generation_defaults(client: Any) -> dict[str, Any]:
    """What vLLM read of a model's generation_config.json, to be changed in place."""
    fields: dict[str, Any] = client.input_processor.generation_config_fields
    return fields


async def swap_weights(replica: Any, checkpoint: str) -> None:
    """The engine goes on with the weights in the folder ``checkpoint``: seconds instead of a cold start's minute."""
    await replica.collective_rpc("reload_weights", kwargs={"weights_path": checkpoint})


def engine_died() -> type[Exception]:
    """What vLLM raises where its engine's process is gone."""
    from vllm.v1.engine.exceptions import EngineDeadError

    return EngineDeadError


def front_application() -> Any:
    """The FastAPI application of Ray's OpenAI ingress, without the middleware that lets pages of any web site read the
    answers."""
    from ray.llm._internal.serve.core.ingress.ingress import init

    front = init()
    front.user_middleware = [
        middleware for middleware in front.user_middleware if middleware.cls.__name__ != "CORSMiddleware"
    ]
    return front


def model_card(title: str, config: Any) -> Any:
    """What ``/v1/models`` says of a model: an application of several parts is given them."""
    from ray.llm._internal.serve.core.configs.openai_api_models import to_model_metadata

    return to_model_metadata(title, config)


def serve_client() -> Any:
    """Of the Serve that runs on this cluster; None where none does."""
    from ray.serve.context import _get_global_client

    return _get_global_client(raise_if_no_controller_running=False)
