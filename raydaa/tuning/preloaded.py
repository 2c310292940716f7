"""What a worker process imports before it has work, where `raydaa.cluster.connected` asks for it."""

from importlib import import_module

from raydaa.training.model import quiet_transformers

quiet_transformers()  # first: it keeps away what these would load for nothing
for name in (
    "transformers.models.llama.modeling_llama",
    "raydaa.generation.sample",
    "raydaa.training.advance",
    "raydaa.training.loop",
    "raydaa.tuning.trial",
):
    import_module(name)
