"""Settings from YAML: read, overridden, checked, and explained in one line where they can't be used."""

import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from raydaa.errors import InputError
from raydaa.settings.base import types_of

Checked = TypeVar("Checked", bound=BaseModel)


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


def _written(path: list[int | str], tree: Any) -> list[int | str]:
    """``path`` without the numbers of lists that the user did not write: one value may stand for a list of one."""
    written: list[int | str] = []
    for part in path:
        if isinstance(part, int) and not isinstance(tree, list):
            continue
        written.append(part)
        inside = tree.get(part) if isinstance(tree, dict) else None
        tree = tree[part] if isinstance(tree, list) and isinstance(part, int) and part < len(tree) else inside
    return written


def _explain(error: ValidationError, kind: type[BaseModel], tree: Any) -> str:
    """The first problem of a ValidationError as ``place: value: rule; remedy``."""
    first = error.errors()[0]
    problem = first["type"]
    value = first["input"]
    context = first.get("ctx", {})
    path, keys = _walked(kind, first["loc"])
    setting = _place(tuple(_written(path, tree)))
    if problem == "study":
        at = context.get("at", "")
        setting = f"{setting}.{at}" if setting and at else setting or at
        return f"{setting}: {context['message']}" if setting else context["message"]
    if problem in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{setting}: unknown key; choose from {', '.join(keys)}"
    if problem == "union_tag_invalid":
        choices = context["expected_tags"].replace("'", "")
        return f"{setting}.kind: {context['tag']!r}: choose from {choices}"
    if problem in ("missing", "union_tag_not_found"):
        return f"{setting}{'.kind' * (problem != 'missing')}: is missing and has no default"
    if problem in ("model_type", "model_attributes_type", "dict_type", "dataclass_type"):
        return f"{setting}: {value!r} is not a group of settings; write {{key: value, …}}"
    rule = first["msg"][0].lower() + first["msg"][1:]
    return f"{setting}: {value!r}: {rule.removeprefix('value error, ')}"


def _is_union_branch(part: int | str) -> bool:
    """Pydantic puts the tried branch of a union into the path; users never wrote it."""
    return isinstance(part, str) and (part in {"str", "int", "float"} or "[" in part)


def _walked(kind: type[BaseModel], path: tuple[int | str, ...]) -> tuple[list[int | str], list[str]]:
    """``path`` as users would write it, and the known keys of the settings group that its last part lies in."""
    written: list[int | str] = []
    groups: list[type[Any]] = [kind]
    keys: list[str] = []
    for part in path:
        if isinstance(part, int):
            written.append(part)
            continue
        if _is_union_branch(part) or any(part in getattr(group, "unwritten", ()) for group in groups):
            continue
        if tagged := [group for group in groups if part in _tags(group)]:
            groups = tagged
            continue
        written.append(part)
        kinds = [types_of(group) for group in groups]
        keys = sorted({name for known in kinds for name in known})
        groups = [inner for known in kinds for inner in _groups_in(known.get(part))]
    return written, keys


def _tags(group: type[Any]) -> tuple[Any, ...]:
    """By which values of ``kind`` a group is told from others that may stand in its place."""
    return get_args(types_of(group).get("kind"))


def _groups_in(annotation: Any) -> list[type[Any]]:
    """The settings groups among what a value may be."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        return [annotation]
    return [group for part in get_args(annotation) for group in _groups_in(part)]


def _set(tree: Any, path: str, value: Any) -> None:
    """Set ``search.methods[0].beta`` (or ``search.methods.0.beta``) in a tree of dicts and lists."""
    parts = re.sub(r"\[(\d+)\]", r".\1", path).split(".")
    for index, part in enumerate(parts):
        setting = _place(tuple(int(p) if p.isdigit() else p for p in parts[: index + 1]))
        last = index == len(parts) - 1
        if isinstance(tree, list):
            if not part.isdigit() or int(part) >= len(tree):
                raise InputError(f"{setting}: there is no such entry; the list has {len(tree)}")
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
            raise InputError(f"{setting}: {tree!r} is a plain value; it holds no keys to set")


def parse_yaml(text: str, where: str) -> Any:
    """YAML text as Python values; InputError with line and column where it is broken."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InputError(f"{where}: {line}{error.problem}; mend the YAML") from None
    except yaml.YAMLError as error:
        raise InputError(f"{where}: {' '.join(str(error).split())}; mend the YAML") from None


def read_yaml(path: str | Path) -> Any:
    """A settings file as Python values; InputError where it can't be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give the path of a settings file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; give the path of a settings file") from None
    return parse_yaml(text, str(path))


def checked(
    kind: type[Checked], tree: Any, values: Mapping[str, Any], where: str, context: dict[str, Any] | None = None
) -> Checked:
    """``tree`` (changed in place by ``values``) as settings of ``kind``; InputError in one line."""
    if not isinstance(tree, dict):
        raise InputError(f"{where}: holds no settings; it needs {', '.join(sorted(kind.model_fields))}")
    try:
        for key, value in values.items():
            _set(tree, key, value)
        return kind.model_validate(tree, context=context)
    except ValidationError as error:
        raise InputError(f"{where}: {_explain(error, kind, tree)}") from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
