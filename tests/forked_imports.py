"""What the command line imports on its way through a study; processes are forked off after it."""

import importlib
import os
import pkgutil

import raydaa.own_process
from raydaa.compat.imports import quiet_transformers
from raydaa.compat.ray import set_options

# Processes of Ray's import these.
ELSEWHERE = ("raydaa.__main__", "raydaa.generation.replica", "raydaa.tuning.worker_preload")

os.environ["HF_HUB_OFFLINE"] = "1"  # like Ray's options, read where it is imported
set_options()
quiet_transformers()
for module in pkgutil.walk_packages(raydaa.__path__, "raydaa."):
    if module.name not in ELSEWHERE:
        importlib.import_module(module.name)
for name in ("torch._dynamo", "transformers.models.llama.modeling_llama", "accelerate", "optuna.storages._rdb.models"):
    importlib.import_module(name)
