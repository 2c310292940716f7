"""What the tests of training share."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from raydaa.settings.training import LoraSettings, TrainingSettings
from raydaa.training.reference import Scoring, join_shares, write_share
from raydaa.training.run import Run
from raydaa.training.spec import DataSpec, ObjectiveSpec, Placement, Recipe, RunSpec

Make = Callable[..., RunSpec]
Value = TypeVar("Value")

SCORING = Scoring("fp32", 256)


def names_in(kind: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where each plain field of a dataclass and of those that it holds is: ``("recipe", "training", "lora")``."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            yield from names_in(hints[field.name], (*before, field.name))
        else:
            yield (*before, field.name)


PATHS = {path[-1]: path for path in names_in(RunSpec)}  # no two fields share a name


def at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = getattr(value, name)
    return value


def put(value: Value, path: tuple[str, ...], new: Any) -> Value:
    name, *rest = path
    inner = put(getattr(value, name), tuple(rest), new) if rest else new
    return replace(value, **{name: inner})  # type: ignore[type-var]


def changed(spec: RunSpec, **values: Any) -> RunSpec:
    """A spec with other values, by the names of the fields wherever they lie."""
    for name, value in values.items():
        spec = put(spec, PATHS[name], value)
    return spec


def run_spec(**values: Any) -> RunSpec:
    """A dpo run of one plain torch process in float32; ``values`` say what it starts from, and what is otherwise."""
    training = TrainingSettings(warmup_ratio=0.0, max_grad_norm=1.0, precision="fp32", validations=2)
    objective = ObjectiveSpec(method="dpo", parameters={"beta": 0.1})
    placement = Placement(engine="torch", zero_stage=0)
    recipe = Recipe(training=training, objective=objective, placement=placement, learning_rate=1e-3, seed=0)
    return changed(RunSpec(recipe=recipe, data=DataSpec(train=""), start=""), **values)


def lora(rank: int, alpha: float) -> LoraSettings:
    """Adapters of all linear layers."""
    return LoraSettings(rank=rank, alpha=alpha)


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
