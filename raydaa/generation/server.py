"""vLLM behind Ray Serve: one replica walks from checkpoint to checkpoint without a cold start.

A request names the checkpoint it wants; a replica that holds another swaps weights in place first, so an answer
can never come from stale weights, also not from a replica that was restarted with those of its deployment.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raydaa.artifacts import model_hash, read_json
from raydaa.generation.sample import Response, Sampling

APP = "raydaa-generation"


def available() -> bool:
    """Whether vLLM is installed here."""
    from importlib.util import find_spec

    return find_spec("vllm") is not None


def tensors_of(folder: Path) -> dict[str, list[int]]:
    """Name and shape of every tensor of a checkpoint, from the safetensors headers alone."""
    from safetensors import safe_open

    shapes: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            shapes |= {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes


def architecture_of(folder: Path) -> Any:
    """What must agree before weights may be swapped: configuration (notes aside), tensor names and shapes."""
    config = read_json(folder / "config.json")
    if config is None:
        raise ValueError(f"{folder}: is not a checkpoint (no config.json)")
    notes = ("transformers_version", "_name_or_path", "use_cache", "dtype", "torch_dtype")
    return {k: v for k, v in config.items() if k not in notes}, tensors_of(folder)


class Replica:
    """A vLLM engine and the checkpoint it holds."""

    def __init__(self, checkpoint: str, dtype: str, max_model_len: int, max_num_seqs: int, on_gpu: bool) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        if not on_gpu:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
            os.environ.setdefault(
                "VLLM_ENABLE_V1_MULTIPROCESSING", "0"
            )  # the engine core in this process: loads faster
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.checkpoint = checkpoint
        self.version = model_hash(Path(checkpoint))
        self.architecture = architecture_of(Path(checkpoint))
        self.swap = asyncio.Lock()
        self.engine = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=checkpoint,
                dtype=dtype,
                max_model_len=max_model_len,
                max_num_seqs=max_num_seqs,
                enforce_eager=not on_gpu,
                # On CPU a request with a seed kills the engine when its prompt is prefilled in two pieces.
                enable_chunked_prefill=None if on_gpu else False,
                max_num_batched_tokens=None if on_gpu else max(8192, max_model_len),
                generation_config="vllm",  # sampling is ours; a checkpoint's own defaults must not mix in
            )
        )

    async def generate(
        self, checkpoint: str, prompts: list[list[int]], names: list[str], sampling: Sampling, eos: int
    ) -> tuple[str, list[Response]]:
        """Responses of ``checkpoint`` to all prompts, concurrently, and the hash of the weights that gave them.

        Every prompt has its own seed, made of ``sampling.seed`` and its name: its response depends on nothing else.
        """
        async with self.swap:
            await self._hold(checkpoint)
            tasks = [self._one(i, prompt, names[i], sampling, eos) for i, prompt in enumerate(prompts)]
            responses = await asyncio.gather(*tasks)
        return self.version, list(responses)

    async def _hold(self, checkpoint: str) -> None:
        """Have the weights of ``checkpoint``, by swapping them in place if need be."""
        version = model_hash(Path(checkpoint))
        if version == self.version:
            return
        # vLLM dies of a wrong architecture and answers nonsense after a missing tensor: look before the swap.
        if architecture_of(Path(checkpoint)) != self.architecture:
            raise ValueError(f"{checkpoint}: is of another architecture than {self.checkpoint}")
        await self.engine.pause_generation(mode="wait", clear_cache=True)
        try:
            await self.engine.collective_rpc("reload_weights", kwargs={"weights_path": checkpoint})
            # Blocks of the old weights would else be reused for prompts with the same beginning.
            await self.engine.reset_prefix_cache()
        finally:
            await self.engine.resume_generation()
        self.checkpoint, self.version = checkpoint, version

    async def _one(self, index: int, prompt: list[int], name: str, sampling: Sampling, eos: int) -> Response:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        seed = (sampling.seed * 1_000_003 + int(name[:12], 16)) % (1 << 31)
        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            seed=seed,
            logprobs=0,  # of the drawn token alone; raw, as vLLM's default logprobs mode has it
            stop_token_ids=[eos],
            detokenize=False,
        )
        final: Any = None
        request = f"{index}-{seed}-{os.urandom(4).hex()}"
        async for output in self.engine.generate(TokensPrompt(prompt_token_ids=prompt), parameters, request):
            final = output
        completion = final.outputs[0]
        tokens = list(completion.token_ids)
        logp = sum(step[token].logprob for step, token in zip(completion.logprobs, tokens, strict=True))
        return Response(tokens, float(logp), completion.finish_reason == "length")


@contextlib.contextmanager
def served(options: dict[str, Any], replicas: int, cpus: float, gpus: float) -> Iterator[Any]:
    """A handle to ``replicas`` replicas started with ``options``, taken down at the end; nothing listens on a port."""
    from ray import serve

    serve.start(proxy_location="Disabled")
    deployment = serve.deployment(
        num_replicas=replicas,
        max_ongoing_requests=1,  # a request is a whole checkpoint: the engine batches its prompts itself
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        health_check_timeout_s=600,
    )(Replica)
    handle = serve.run(deployment.bind(**options), name=APP, route_prefix=None)
    try:
        yield handle
    finally:
        serve.delete(APP)  # only ours: a cluster may serve other applications
