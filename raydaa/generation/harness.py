"""The LM Evaluation Harness, asked of a model behind our own endpoint."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from raydaa.generation.server import Endpoint
from raydaa.settings.evaluation import HarnessSettings
from raydaa.store.artifacts import file_hash, files_below, read_json
from raydaa.store.records import HarnessScore, HarnessScores

MOST = 2048  # tokens, where a model does not say
NO_FILTER = ",none"  # behind the name of a metric that nothing was filtered for


def identity(settings: HarnessSettings) -> dict[str, Any]:
    """What scores depend on, beside the model: the tasks and, where they lie in a folder, its content."""
    files = _content(settings.include_path)
    return {**settings.key_fields(), "files": files, "version": version("lm_eval")}


def _content(folder: str | None) -> str:
    """A hash of all files in a folder of tasks."""
    own_files = [] if folder is None else [p for p in files_below(Path(folder)) if p.suffix != ".pyc"]
    files = {str(path.relative_to(str(folder))): file_hash(path) for path in own_files}
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()


def positions(model: Path) -> int:
    """How many tokens a model's prompt and answer may have together."""
    return int((read_json(model / "config.json") or {}).get("max_position_embeddings") or MOST)


def unknown_tasks(settings: HarnessSettings) -> list[str]:
    """Those that the harness does not know."""
    tasks = _tasks(settings)
    return [name for name in settings.tasks if not tasks.match_tasks([name])]


def _tasks(settings: HarnessSettings) -> Any:
    """The tasks that the harness finds, those of ``settings`` among them."""
    return _found(settings.include_path, _content(settings.include_path), tuple(settings.tasks))


@cache
def _found(include_path: str | None, _: str, names: tuple[str, ...]) -> Any:
    """As `_tasks`, once for a folder's content: to go through the harness's own 14,000 files takes 12 s."""
    from lm_eval.tasks import TaskManager

    if include_path is not None:
        alone = TaskManager(include_path=include_path, include_defaults=False)
        if set(names) <= set(alone.all_subtasks):  # a group may be of tasks that lie elsewhere
            return alone
    return TaskManager(include_path=include_path)


def ask(endpoint: Endpoint, model: Path, tokenizer: Path, settings: HarnessSettings) -> HarnessScores:
    """Scores of ``model``, which answers at ``endpoint``, by task and metric.

    Prompts are read, and as chats rendered, by the tokenizer in the folder ``tokenizer``.
    """
    with without_proxies():
        evaluated: Any = _evaluated(endpoint, settings.max_length or positions(model), tokenizer, settings)
    return {task: _metrics(values) for task, values in evaluated["results"].items()}


@contextlib.contextmanager
def without_proxies() -> Iterator[None]:
    """What this machine serves is asked directly, whatever proxies the environment names."""
    before = {name: os.environ.get(name) for name in ("NO_PROXY", "no_proxy")}
    for name, value in before.items():
        os.environ[name] = ",".join(filter(None, [value, "127.0.0.1", "localhost", "::1"]))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _evaluated(endpoint: Endpoint, longest: int, tokenizer: Path, settings: HarnessSettings) -> Any:
    from lm_eval import simple_evaluate

    return simple_evaluate(
        model="local-completions",
        model_args={
            "model": endpoint.model,
            "base_url": f"{endpoint.url}/completions",
            "tokenizer": str(tokenizer),
            "tokenizer_backend": "huggingface",
            "num_concurrent": settings.concurrency,
            "max_length": longest,
        },
        tasks=list(settings.tasks),
        task_manager=_tasks(settings),
        num_fewshot=settings.num_fewshot,
        limit=settings.limit,
        apply_chat_template=settings.chat_template,
        log_samples=False,
    )


def _metrics(values: dict[str, Any]) -> dict[str, HarnessScore]:
    scores: dict[str, HarnessScore] = {}
    for name, value in values.items():
        metric, comma, filtered = name.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = values.get(f"{metric}_stderr,{filtered}")
        error = float(error) if isinstance(error, int | float) else None
        scores[name.removesuffix(NO_FILTER)] = HarnessScore(float(value), error)
    return scores
