"""A study: settings from YAML, overrides, one-line errors, and the run itself."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from raydaa.settings import StudySettings

if TYPE_CHECKING:
    from raydaa.results import TrialResults


class StudyError(ValueError):
    """The user's input can't be used; the message is one line that says where, what and how to mend it."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers (PyYAML reads ``5e-7`` as text) and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} stands twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _place(path: tuple[int | str, ...]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _explain(error: ValidationError) -> str:
    """The first problem of a ValidationError as ``place: value: rule; remedy``."""
    first = error.errors()[0]
    kind, value = first["type"], first["input"]
    context = first.get("ctx", {})
    path = [part for part in first["loc"] if not _is_union_branch(part) and part != "parameters"]
    place = _place(tuple(path))
    if kind == "study":
        at = context.get("at", "")
        place = f"{place}.{at}" if place and at else place or at
        return f"{place}: {context['message']}" if place else context["message"]
    if kind == "extra_forbidden":
        return f"{place}: unknown key; choose from {', '.join(_keys_at(path[:-1]))}"
    if kind == "missing":
        return f"{place}: is missing; every study needs it"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{place}: {value!r} is not a group of settings; write {{key: value, …}}"
    rule = first["msg"][0].lower() + first["msg"][1:]
    return f"{place}: {value!r}: {rule.removeprefix('value error, ')}"


def _is_union_branch(part: int | str) -> bool:
    """Pydantic puts the tried branch of a union into the path; users never wrote it."""
    return isinstance(part, str) and (part in {"str", "int", "float"} or "[" in part)


def _keys_at(path: list[int | str]) -> list[str]:
    """The known keys of the settings group at ``path``."""
    from typing import get_args

    group: Any = StudySettings
    for part in path:
        if isinstance(part, int):
            continue
        annotation = group.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        group = next(c for c in candidates if hasattr(c, "model_fields"))
    return sorted(group.model_fields)


def _set(tree: Any, path: str, value: Any) -> None:
    """Set ``search.methods[0].beta`` (or ``search.methods.0.beta``) in a tree of dicts and lists."""
    parts = re.sub(r"\[(\d+)\]", r".\1", path).split(".")
    for index, part in enumerate(parts):
        place = _place(tuple(int(p) if p.isdigit() else p for p in parts[: index + 1]))
        last = index == len(parts) - 1
        if isinstance(tree, list):
            if not part.isdigit() or int(part) >= len(tree):
                raise StudyError(f"{place}: there is no such entry; the list has {len(tree)}")
            if last:
                tree[int(part)] = value
            else:
                tree = tree[int(part)]
        elif isinstance(tree, dict):
            if last:
                tree[part] = value
            else:
                tree = tree.setdefault(part, {})
        else:
            raise StudyError(f"{place}: {tree!r} is a plain value; it holds no keys to set")


def _plain(value: Any) -> Any:
    """The same tree with classes of own methods replaced by the names they travel under."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if not isinstance(value, type):
        return value
    from raydaa.algorithms.catalog import use

    try:
        return use(value)
    except ValueError as error:
        raise StudyError(str(error)) from None


def parse_yaml(text: str, where: str) -> Any:
    """YAML text as Python values; StudyError with line and column where it is broken."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise StudyError(f"{where}: {line}{error.problem}; mend the YAML") from None
    except yaml.YAMLError as error:
        raise StudyError(f"{where}: {' '.join(str(error).split())}; mend the YAML") from None


@dataclass(frozen=True)
class Study:
    """A checked study. ``tree`` is what its author wrote, with overrides applied."""

    settings: StudySettings
    tree: dict[str, Any]
    where: str = "study"
    allow_code: bool = False

    @staticmethod
    def load(path: str | Path, values: Mapping[str, Any] | None = None, allow_code: bool = False) -> "Study":
        """Read a study file. ``values`` override it (``{"search.seeds": [0, 1]}``). StudyError on anything wrong."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise StudyError(f"{path}: {error.strerror or error}; give the path of a study file") from None
        except UnicodeDecodeError:
            raise StudyError(f"{path}: is not UTF-8 text; give the path of a study file") from None
        return Study.from_tree(parse_yaml(text, str(path)), values, str(path), allow_code)

    @staticmethod
    def from_tree(
        tree: Any, values: Mapping[str, Any] | None = None, where: str = "study", allow_code: bool = False
    ) -> "Study":
        """A study from nested dicts, as YAML would give them; a method's name may be a class of your own."""
        if not isinstance(tree, dict):
            raise StudyError(f"{where}: holds no settings; a study has name, model, data and search")
        try:
            tree = yaml.safe_load(yaml.safe_dump(_plain(tree)))
            for key, value in (values or {}).items():
                _set(tree, key, _plain(value))
            settings = StudySettings.model_validate(tree, context={"allow_code": allow_code})
        except ValidationError as error:
            raise StudyError(f"{where}: {_explain(error)}") from None
        except StudyError as error:
            raise StudyError(f"{where}: {error}") from None
        if settings.model.trust_remote_code and not allow_code:
            raise StudyError(f"{where}: model.trust_remote_code: runs code from the model; add --allow-code")
        return Study(settings, tree, where, allow_code)

    def with_values(self, values: Mapping[str, Any]) -> "Study":
        """The same study with some settings replaced, checked again."""
        return Study.from_tree(self.tree, values, self.where, self.allow_code)

    @property
    def folder(self) -> Path:
        """Where the study's results lie."""
        return Path(self.settings.storage.study or f"studies/{self.settings.name}").absolute()

    def run(self, address: str | None = None) -> "TrialResults":
        """Run what is not done yet and return the results; ``address`` is a Ray cluster (None: this machine)."""
        from raydaa.pipeline import run_study

        return run_study(self, address)
