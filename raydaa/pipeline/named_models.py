"""Models that a study names: where each lies, and which it asks for."""

from dataclasses import dataclass
from pathlib import Path

from raydaa.errors import InputError
from raydaa.pocket import world as pocket
from raydaa.settings.study import StudySettings
from raydaa.store.artifacts import make_folder, model_hash
from raydaa.store.models import local_model
from raydaa.study import Study
from raydaa.training.model import write_model


@dataclass(frozen=True)
class ModelRef:
    """A model that trials start from, or that is judged beside them."""

    name: str
    folder: Path
    hash: str

    @staticmethod
    def at(name: str, folder: Path) -> "ModelRef":
        """The model in ``folder``, known by its weights."""
        return ModelRef(name, folder, model_hash(folder))


def base_model(study: Study) -> Path:
    """The study's base model as a folder."""
    if study.settings.model.source != "pocket":
        return local_model(study.settings.model.source)
    sizes = study.settings.pocket
    folder = study.cache / "models" / f"pocket-{pocket.model_key(sizes)}"
    make_folder(folder, lambda temporary: write_model(*pocket.make_model(sizes), temporary))
    return folder


def models_named(settings: StudySettings) -> list[str]:
    """Names of all models that trials start from or are compared with, each once; the base model aside."""
    starts = [name for method in settings.search.methods for name in settings.search.starts_of(method)]
    names = dict.fromkeys([*starts, *settings.models_beside, *settings.evaluation.judged_models])
    return [name for name in names if name != "base"]


def sft_fraction(settings: StudySettings, name: str) -> float | None:
    """``sft`` is the largest fraction, ``sft:0.1`` that of 10 %; None for a model of its own."""
    fractions = settings.sft.fractions
    if name == "sft":
        return max(fractions)
    if not name.startswith("sft:"):
        return None
    for fraction in fractions:
        if name == f"sft:{fraction:g}":
            return fraction
    choices = ", ".join(f"sft:{fraction:g}" for fraction in fractions)
    raise InputError(f"{name}: is not among sft.fractions; choose from {choices}")
