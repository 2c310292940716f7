"""Imported by Ray's waiting processes on a machine without a GPU: a trial then starts at once (`pipeline._preload`)."""

import gc
from importlib import import_module

from raydaa.compat.imports import quiet_transformers

quiet_transformers()
for name in (
    "raydaa.tuning.trial",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
):
    import_module(name)
gc.freeze()  # what was imported stays: collections in training pass over it
