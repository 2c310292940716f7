"""A study's pocket twin: the same methods, starts and shape in the built-in world, where a trial takes seconds."""

from dataclasses import dataclass
from typing import Any

from raydaa.settings.base import Range
from raydaa.settings.search import MethodSettings
from raydaa.settings.study import StudySettings

RATE, RATES, FEW_RATES = 1e-3, (1e-4, 3e-3), (3e-4, 1e-3)
FROM_BASE = (1e-3, 3e-3)  # of trials that must learn to answer at all
FEW_BETAS = 3
INSTRUCTED = "sft:0.5"  # stands in for a model of the study's own: one that was taught to answer with other data
SIZES = {"num_pairs": 3000, "noise": 0.5, "num_prompts": 300}
TRAINING = {"batch_size": 32, "precision": "fp32", "tokens_per_microbatch": 4096}
GENERATION = {"temperature": 1.0, "top_k": 0, "max_new_tokens": 32, "batch_size": 256}


@dataclass(frozen=True)
class Scale:
    """Where a method's β makes a difference in the pocket world, and which β suits it there at which rate."""

    low: float
    best: float
    high: float
    rate: float = RATE


# The best of each method's grid there, or the one nearest to its start of those that are as good.
BETAS = {
    "dpo": Scale(0.02, 0.3, 1.0),
    "ipo": Scale(0.02, 0.05, 1.0),
    "simpo": Scale(0.25, 3.0, 4.0, 3e-4),
    "orpo": Scale(0.25, 1.0, 4.0, 3e-4),
    "asft": Scale(0.25, 0.25, 4.0),
    "apo_zero": Scale(0.02, 1.0, 1.0, 3e-4),
    "nca": Scale(0.005, 0.05, 1.0),
    "cal_dpo": Scale(0.005, 0.05, 0.5),
    "kto": Scale(0.02, 0.3, 1.0),
    "cpo": Scale(0.02, 0.3, 1.0, 3e-4),
    "rso": Scale(0.02, 0.3, 1.0, 3e-4),
}


def pocket_tree(settings: StudySettings, full: bool) -> dict[str, Any]:
    """The twin's settings as a study file would hold them; its grid is thinned to 3 β × 2 learning rates, or whole."""
    search = settings.search
    methods = [_entry(method, search.starts_of(method), search.learning_rate, full) for method in search.methods]
    start_names = [name for method in search.methods for name in search.starts_of(method)]
    starts = set(map(_start, [*start_names, *settings.models_beside]))
    fractions = {float(name.partition(":")[2]) for name in starts if name.startswith("sft:")}
    return {
        "name": f"{settings.name}-pocket",
        "model": {"source": "pocket"},
        "pocket": SIZES,
        "data": {
            "sft": {"source": "pocket"},
            "preferences": {"source": "pocket", "fraction": _plain(settings.data.preferences.fraction)},
            "prompts": {"source": "pocket"},
            "max_length": 64,
        },
        "sft": {"learning_rate": 3e-3, "epochs": 3, "batch_size": 64, "fractions": sorted(fractions | {1.0})},
        "training": TRAINING,
        "search": {
            "init": _starts(search.init),
            "learning_rate": RATE,
            "seeds": list(search.seeds),
            "methods": methods,
            "sampler": search.sampler,
            "num_trials": search.num_trials,
            "early_stopping": None if search.early_stopping is None else search.early_stopping.model_dump(mode="json"),
        },
        "generation": GENERATION,
        "evaluation": {
            "judge": "rule",
            "baseline": "sft",
            "models": _starts(settings.models_beside),
        },
        "storage": {"keep": settings.storage.keep},
    }


def _start(name: str) -> str:
    return name if name in ("base", "sft") or name.startswith("sft:") else INSTRUCTED


def _starts(names: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(map(_start, names)))


def _entry(method: MethodSettings, starts: tuple[str, ...], rates: Any, full: bool) -> dict[str, Any]:
    """A method's entry: everything as it stands, but β, learning rates and starts of the pocket world's own."""
    scale = BETAS.get(method.name)
    rate = RATE if scale is None else scale.rate
    parameters = {name: _plain(value) for name, value in method.parameters.items()}
    if scale is not None and "beta" in parameters:
        betas = method.parameters["beta"]
        parameters["beta"] = _mapped(betas, scale.best, (scale.low, scale.high), None if full else FEW_BETAS)
    ends = FROM_BASE if starts == ("base",) else RATES if full else FEW_RATES
    entry = {
        "name": method.name,
        "parameters": parameters,
        "learning_rate": _mapped(method.learning_rate or rates, rate, ends, None if full else len(ends)),
        "sft_weight": _plain(method.sft_weight),
        "align_weight": _plain(method.align_weight),
        "training": {name: _plain(value) for name, value in method.training.items() if name == "epochs"},
    }
    if method.init is not None:
        entry["init"] = _starts(method.init)
    if method.fraction is not None:
        entry["fraction"] = _plain(method.fraction)
    if method.num_trials is not None:
        entry["num_trials"] = method.num_trials
    return entry


def _plain(value: tuple[Any, ...] | Range) -> Any:
    return value.model_dump() if isinstance(value, Range) else list(value)


def _mapped(value: tuple[Any, ...] | Range, best: float, ends: tuple[float, float], most: int | None) -> Any:
    """As many values as there were, at most ``most``, evenly in logarithms; one alone is the best, a range a range."""
    low, high = ends
    if isinstance(value, Range):
        return {"low": low, "high": high, "log": True}
    count = min(len(value), most or len(value))
    if count == 1:
        return [best]
    return [float(f"{low * (high / low) ** (i / (count - 1)):.2g}") for i in range(count)]
