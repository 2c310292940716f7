"""vLLM in a Ray Serve replica that walks from checkpoint to checkpoint without a cold start.

It is `ray.serve.llm`'s own server, so everything that speaks OpenAI's protocol to that works with this one; what it
adds is `generate`, which names the checkpoint it wants. A replica that holds another swaps weights in place first: an
answer never comes from stale weights, also not from a replica that was restarted with those of its deployment.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

from ray.serve.llm import LLMConfig, LLMServer

from raydaa.compat import ray_serve
from raydaa.data.chat import turn_ends
from raydaa.generation.checkpoints import architecture_of
from raydaa.generation.sample import Response, Sampling
from raydaa.store.artifacts import model_hash


class Replica(LLMServer):
    """A vLLM engine and the checkpoint it holds."""

    async def __init__(self, llm_config: LLMConfig) -> None:  # type: ignore[misc]
        ray_serve.download_nothing(llm_config)
        await super().__init__(llm_config, engine_cls=ray_serve.engine_class())
        self.checkpoint = ray_serve.model_folder(llm_config)
        self.version = model_hash(Path(self.checkpoint))
        self.architecture = architecture_of(Path(self.checkpoint))
        self.turn = asyncio.Lock()

    async def _start_engine(self) -> None:
        """As Ray's, without the actor that it starts to count who uses what, and with every end of a turn."""
        await self.engine.start()
        client = ray_serve.vllm_client(self.engine)
        tokenizer = client.get_tokenizer()
        if getattr(tokenizer, "chat_template", None) and tokenizer.eos_token_id is not None:
            known = ray_serve.generation_defaults(client)  # of a model that nobody made ready for a study
            known["eos_token_id"] = list(turn_ends(tokenizer, known.get("eos_token_id")))

    async def generate(
        self, checkpoint: str, prompts: list[list[int]], names: list[str], sampling: Sampling, stops: list[int]
    ) -> tuple[str, list[Response]]:
        """Responses of ``checkpoint`` to all prompts, concurrently, and the hash of the weights that gave them.

        Every prompt has its own seed, made of ``sampling.seed`` and its name: its response depends on nothing else.
        """
        try:
            async with self.turn:
                await self._hold(checkpoint)
                tasks = [self._one(prompt, name, sampling, stops) for prompt, name in zip(prompts, names, strict=True)]
                responses = await asyncio.gather(*tasks)
                return self.version, list(responses)
        except ray_serve.engine_died():
            # The engine is a process of its own. A replica that ends is replaced, and asked again.
            os._exit(1)

    async def _hold(self, checkpoint: str) -> None:
        """Have the weights of ``checkpoint``, by swapping them in place if need be."""
        version = model_hash(Path(checkpoint))
        if version == self.version:
            return
        # vLLM dies of a wrong architecture and answers nonsense after a missing tensor: look before the swap.
        if architecture_of(Path(checkpoint)) != self.architecture:
            raise ValueError(f"{checkpoint}: is of another architecture than {self.checkpoint}")
        self.version = ""  # half-way through there is none
        await self.pause(mode="wait", clear_cache=True)
        try:
            await ray_serve.swap_weights(self, checkpoint)
            # Blocks of the old weights would else be reused for prompts with the same beginning.
            await self.reset_prefix_cache()
        finally:
            await self.resume()
        self.checkpoint = checkpoint
        self.version = version

    async def _one(self, prompt: list[int], name: str, sampling: Sampling, stops: list[int]) -> Response:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        seed = (sampling.seed * 1_000_003 + int(name[:12], 16)) % (1 << 31)
        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            seed=seed,
            logprobs=0,  # of the drawn token alone; raw, as vLLM's default logprobs mode has it
            stop_token_ids=stops,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,  # else an object for every token
        )
        engine = ray_serve.vllm_client(self.engine)
        final: Any = None
        request = f"{name}-{os.urandom(8).hex()}"
        async for output in engine.generate(TokensPrompt(prompt_token_ids=prompt), parameters, request):
            final = output
        completion = final.outputs[0]
        tokens = list(completion.token_ids)
        logp = sum(step[token].logprob for step, token in zip(completion.logprobs, tokens, strict=True))
        return Response(tokens, float(logp), completion.finish_reason == "length")
