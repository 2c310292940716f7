"""What raydaa asks of other libraries beyond what they promise: is it still there? Seconds, before anything is run."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import raydaa
from raydaa.compat import ray as compat_ray
from raydaa.compat.ray_tune import silent_reporter

ROOT = Path(raydaa.__file__).parent
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")


def path_of(module: str) -> Path:
    """The file of a module that is not loaded."""
    spec = find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None
    return Path(spec.origin)


def source_of(module: str) -> str:
    return path_of(module).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def raylet() -> bytes:
    """Ray's own core, with the names that it knows."""
    return (path_of("ray").parent / "core" / "src" / "ray" / "raylet" / "raylet").read_bytes()


def takes(function: Callable[..., Any], *names: str) -> bool:
    return set(names) <= set(inspect.signature(function).parameters)


# The file in which each variable of the environment is read.
READERS = {
    "RAY_AIR_NEW_OUTPUT": "ray.tune.experimental.output",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "ray.tune.utils.callback",
    "TUNE_RESULT_BUFFER_LENGTH": "ray.tune.execution.tune_controller",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "ray._private.accelerators.accelerator",
    "RAY_USAGE_STATS_ENABLED": "ray._common.usage.usage_constants",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "ray._private.ray_constants",
    "TUNE_DISABLE_SIGINT_HANDLER": "ray.tune.tune",
    "TUNE_GLOBAL_CHECKPOINT_S": "ray.tune.execution.tune_controller",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "ray.train.v2._internal.constants",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "ray.train.v2._internal.constants",
}


@pytest.mark.parametrize("name", READERS)
def test_ray_still_reads_the_variable(name: str) -> None:
    assert name in source_of(READERS[name])


def test_every_variable_that_is_set_is_looked_for() -> None:
    in_rays_own_core = {"RAY_idle_worker_killing_time_threshold_ms"}  # in C++: the next test
    assert set(compat_ray.ENVIRONMENT) - in_rays_own_core <= set(READERS)
    assert set(compat_ray.train_options(in_process=True)) <= set(READERS)


@pytest.mark.parametrize(
    "name",
    [
        "idle_worker_killing_time_threshold_ms",
        "preload_python_modules",
        "prestart_worker_first_driver",
        "RAY_RAYLET_PID",  # in a worker's environment, by which `import raydaa` knows that it is no guest
    ],
)
def test_rays_core_knows_the_name(name: str, raylet: bytes) -> None:
    assert name.encode() in raylet


def test_ray_tune() -> None:
    from ray.tune.execution import class_cache
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial

    assert "PL_DISABLE_FORK" in class_cache.DEFAULT_ENV_VARS  # Lightning's
    assert isinstance(Trial.error_file, property)
    assert takes(TuneController.stop_trial, "trial")
    assert callable(TuneController.get_trials)
    assert {Trial.PENDING, Trial.PAUSED} == {"PENDING", "PAUSED"}
    assert 'os.environ.get("RAY_AIR_NEW_OUTPUT", "1") == "0"' in source_of("ray.tune.experimental.output")
    assert not silent_reporter().should_report([], done=True)


def test_wandb() -> None:
    text = source_of("ray.air.integrations.wandb")
    assert re.search(r"def _cleanup_logging_actor\(self, trial: \S+\)", text)
    assert "self._trial_logging_actors" in text
    assert "def __ray_call__" in source_of("ray.actor")


def test_cloudpickle() -> None:
    from ray.cloudpickle import register_pickle_by_value

    assert takes(register_pickle_by_value, "module")


@needs_vllm
def test_ray_serve() -> None:
    engine = source_of("ray.llm._internal.serve.engines.vllm.vllm_engine")
    assert "class VLLMEngine" in engine
    assert re.search(r"def _prepare_engine_config\(\s*self,\s*callback_ctx", engine)
    assert "self._engine_client" in engine
    assert "run_init_node" in source_of("ray.llm._internal.common.callbacks.base")
    assert "def actual_hf_model_id" in source_of("ray.llm._internal.serve.engines.vllm.vllm_models")
    server = source_of("ray.llm._internal.serve.core.server.llm_server")
    assert "async def _start_engine(self)" in server
    assert "async def collective_rpc" in server
    assert "def init(" in source_of("ray.llm._internal.serve.core.ingress.ingress")
    assert "CORSMiddleware" in source_of("ray.llm._internal.serve.core.ingress.ingress")
    assert "def to_model_metadata" in source_of("ray.llm._internal.serve.core.configs.openai_api_models")
    assert re.search(r"def _get_global_client\(.*raise_if_no_controller_running", source_of("ray.serve.context"), re.S)


@needs_vllm
def test_vllm() -> None:
    assert "class EngineDeadError" in source_of("vllm.v1.engine.exceptions")
    assert re.search(r"def reload_weights\(", source_of("vllm.v1.worker.gpu_worker"))
    assert "weights_path" in source_of("vllm.v1.worker.gpu_model_runner")
    assert "generation_config_fields" in source_of("vllm.v1.engine.input_processor")
    assert '"uni"' in source_of("vllm.v1.executor.abstract")


def test_deepspeed() -> None:
    engine = source_of("deepspeed.runtime.engine")
    assert "def _zero3_consolidated_16bit_state_dict(self" in engine
    assert re.search(r"def backward\(self, [^)]*scale_wrt_gas", engine)
    assert "__compatible_ops__" in source_of("deepspeed.ops.op_builder.all_ops") + source_of("deepspeed.ops")


def test_transformers() -> None:
    from transformers import PreTrainedModel

    assert callable(PreTrainedModel._can_set_attn_implementation)
    assert hasattr(PreTrainedModel, "_supports_sdpa")
    assert find_spec("transformers.generation.candidate_generator") is not None


def test_torch() -> None:
    from torch._dynamo import config

    assert isinstance(config.recompile_limit, int)


def test_python() -> None:
    """What asked to be called at the end is called before a process ends at once."""
    code = "import atexit; from raydaa.compat.python import end_process; atexit.register(print, 'bye'); end_process(3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "bye\n", "")


def test_optuna() -> None:
    import optuna

    study = optuna.create_study()
    assert study._storage.get_all_studies()
    assert takes(optuna.copy_study, "from_storage")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in ROOT.rglob("*.py"):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def test_no_other_room_asks_for_what_is_private() -> None:
    """Names with an underscore that nobody here has defined, and modules that are called internal."""
    own, asked = set[str](), list[tuple[str, str]]()
    for place, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                own.add(node.target.id)
            if place.startswith("compat/"):
                continue
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                asked.append((place, node.attr))
            if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("raydaa"):
                names = [*node.module.split("."), *(alias.name for alias in node.names)]
                asked += [(place, name) for name in names if name.startswith("_") and not name.startswith("__")]
    documented = {"_exit"}  # of os
    foreign = [(place, name) for place, name in asked if name not in own | documented]
    assert foreign == []


def test_every_function_of_compat_says_why() -> None:
    for path in (ROOT / "compat").glob("[a-z]*.py"):
        module = import_module(f"raydaa.compat.{path.stem}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                assert function.__doc__, f"{path.stem}.{name} does not say why"
