"""What the tests of training share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from raydaa.training.loop import Run
from raydaa.training.reference import Scoring, join_shares, write_share
from raydaa.training.spec import RunSpec

Make = Callable[..., RunSpec]

SCORING = Scoring("fp32", 256)


def run_spec(**values: Any) -> RunSpec:
    """A dpo run of one plain torch process in float32; ``values`` say what it starts from, and what is otherwise."""
    plain: dict[str, Any] = {
        "learning_rate": 1e-3,
        "epochs": 1,
        "warmup_ratio": 0.0,
        "max_grad_norm": 1.0,
        "adam_betas": (0.9, 0.95),
        "weight_decay": 0.0,
        "precision": "fp32",
        "seed": 0,
        "engine": "torch",
        "zero_stage": 0,
        "validations": 2,
        "method": "dpo",
        "parameters": {"beta": 0.1},
    }
    return RunSpec(**{**plain, **values})


def write_references(start: Path, tables: dict[str, str], folder: Path) -> dict[str, str]:
    """Reference log-probabilities of both kinds below ``folder``, as the fields of a spec that name them."""
    for name in ("reference", "mismatched"):
        (folder / name).mkdir()
        write_share(str(start), tables, folder / name, SCORING, name == "mismatched")
        join_shares(folder / name, tables, 1)
    return {name: str(folder / name) for name in ("reference", "mismatched")}


def losses(spec: RunSpec, steps: int | None = None) -> list[float]:
    run = Run(spec)
    return [run.train_step()["loss"] for _ in range(steps or run.total_steps)]
