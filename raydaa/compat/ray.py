"""Ray's core and Ray Train, 2.60."""

import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any

ON_HEAD = {"node:__internal_head__": 0.001}  # for what must not lie on a machine that may be taken away

# Read by Ray from the environment; nothing of its API says the same.
ENVIRONMENT = {
    # Tune would otherwise print tables of its own, and write a second copy of every result.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    # A worker without a GPU must see none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Else `uv run` has the working directory packed.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # A process that has done its imports waits for the next stage; after a second without work it would be ended.
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
}


def set_options() -> None:
    """`ENVIRONMENT`, where its owner has not said otherwise; before Ray is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def system_config(preload: Sequence[str], everywhere: bool) -> dict[str, Any]:
    """For ``ray.init(_system_config=…)``: waiting processes import modules before there is work for them.

    Gain: the align stage of a study of four trials takes 10 s instead of 16. ``everywhere``: on few cores alone each
    has a process that waits, with half a GB of modules.
    """
    return {
        "preload_python_modules": ["raydaa.own_process", *(preload if everywhere else [])],
        "prestart_worker_first_driver": bool(preload),  # without imports to do ahead, none has to wait
    }


def train_options(in_process: bool) -> dict[str, str]:
    """Environment of a Ray Train run.

    Every report, and the end, waits for its controller's next look, by default 2 s later. On a machine of one's own
    nobody has to watch for its being taken away, which is a process of its own.
    """
    options = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
    return {**options, "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"} if in_process else options


def send_with_code(package: ModuleType) -> None:
    """Classes and functions of ``package`` travel to workers with their code, where it is not installed."""
    from ray.cloudpickle import register_pickle_by_value

    register_pickle_by_value(package)
