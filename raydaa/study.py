"""A study: settings from YAML, and the run itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from raydaa.errors import InputError
from raydaa.pocket.twin import pocket_tree
from raydaa.settings.study import StudySettings
from raydaa.settings.yaml_file import checked, read_yaml
from raydaa.store.cache import cache_at


def _plain(value: Any) -> Any:
    """The same tree with classes of own methods replaced by the names they travel under."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if not isinstance(value, type):
        value = value.item() if hasattr(value, "item") and hasattr(value, "dtype") else value  # a number of numpy's
        return str(value) if isinstance(value, Path) else value
    from raydaa.algorithms.catalog import register

    try:
        return register(value)
    except ValueError as error:
        raise InputError(str(error)) from None


@dataclass(frozen=True)
class Study:
    """A checked study. ``tree`` is what its author wrote, with overrides applied."""

    settings: StudySettings
    tree: dict[str, Any]
    where: str = "study"
    allow_code: bool = False

    @classmethod
    def load(cls, path: str | Path, values: Mapping[str, Any] | None = None, allow_code: bool = False) -> Self:
        """Read a study file.

        Args:
            path: The YAML file.
            values: Overrides by path, as ``{"search.seeds": [0, 1]}``.
            allow_code: Whether code that the file names may be run: functions, methods, models' own.

        Returns:
            The study, checked whole: no key unknown, no value out of its bounds.

        Raises:
            InputError: On anything wrong, in one line that says where, what and how to mend it.
        """
        tree = read_yaml(path)
        if isinstance(tree, dict) and "rankings" in tree:
            raise InputError(f"{path}: is a toy study; run it with raydaa toy {path}")
        return cls.from_tree(tree, values, str(path), allow_code)

    @classmethod
    def from_tree(
        cls, tree: Any, values: Mapping[str, Any] | None = None, where: str = "study", allow_code: bool = False
    ) -> Self:
        """A study from nested dicts, as YAML would give them.

        Args:
            tree: What a study file would say; a method's name may be a class of your own.
            values: Overrides by path, as for `load`.
            where: What errors call the study.
            allow_code: As for `load`.

        Returns:
            The study, checked whole.

        Raises:
            InputError: On anything wrong.
        """
        try:
            tree = yaml.safe_load(yaml.safe_dump(_plain(tree)))
            replaced = {key: _plain(value) for key, value in (values or {}).items()}
        except (InputError, yaml.YAMLError) as error:
            raise InputError(f"{where}: {' '.join(str(error).split())}") from None
        settings = checked(StudySettings, tree, replaced, where, {"allow_code": allow_code})
        if settings.model.trust_remote_code and not allow_code:
            raise InputError(f"{where}: model.trust_remote_code: runs code from the model; add --allow-code")
        return cls(settings, tree, where, allow_code)

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """The same study with some settings replaced, checked again.

        Args:
            values: New values by path, as ``{"training.epochs": 2}``.

        Returns:
            Another study; this one stays as it is.

        Raises:
            InputError: On anything wrong.
        """
        return self.from_tree(self.tree, values, self.where, self.allow_code)

    def pocket_twin(self, full: bool = False) -> Self:
        """The same methods, starts and shape in the pocket world, in minutes on any machine.

        Args:
            full: The whole grid instead of 3 β × 2 learning rates of each method.

        Returns:
            A study of small models, in a folder of its own.
        """
        return self.from_tree(pocket_tree(self.settings, full), None, f"{self.where} --pocket", self.allow_code)

    @property
    def folder(self) -> Path:
        """Where the study's results lie."""
        return Path(self.settings.storage.study or f"studies/{self.settings.name}").absolute()

    @property
    def cache(self) -> Path:
        """Where it shares prepared tables, reference log-probabilities, verdicts and built-in models with others."""
        return cache_at(self.settings.storage.cache)
