"""Settings from YAML: read, overridden, checked, and explained in one line where they can't be used."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from raydaa.errors import InputError

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
    found: list[int | str] = []
    for part in path:
        if isinstance(part, int) and not isinstance(tree, list):
            continue
        found.append(part)
        inside = tree.get(part) if isinstance(tree, dict) else None
        tree = tree[part] if isinstance(tree, list) and isinstance(part, int) and part < len(tree) else inside
    return found


def _explain(error: ValidationError, kind: type[BaseModel], tree: Any) -> str:
    """The first problem of a ValidationError as ``place: value: rule; remedy``."""
    first = error.errors()[0]
    problem, value = first["type"], first["input"]
    context = first.get("ctx", {})
    path = [part for part in first["loc"] if not _is_union_branch(part) and part != "parameters"]
    place = _place(tuple(_written(path, tree)))
    if problem == "study":
        at = context.get("at", "")
        place = f"{place}.{at}" if place and at else place or at
        return f"{place}: {context['message']}" if place else context["message"]
    if problem == "extra_forbidden":
        return f"{place}: unknown key; choose from {', '.join(_keys_at(kind, path[:-1]))}"
    if problem == "missing":
        return f"{place}: is missing and has no default"
    if problem in ("model_type", "model_attributes_type", "dict_type"):
        return f"{place}: {value!r} is not a group of settings; write {{key: value, …}}"
    rule = first["msg"][0].lower() + first["msg"][1:]
    return f"{place}: {value!r}: {rule.removeprefix('value error, ')}"


def _is_union_branch(part: int | str) -> bool:
    """Pydantic puts the tried branch of a union into the path; users never wrote it."""
    return isinstance(part, str) and (part in {"str", "int", "float"} or "[" in part)


def _keys_at(kind: type[BaseModel], path: list[int | str]) -> list[str]:
    """The known keys of the settings group at ``path``."""
    group: Any = kind
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
                raise InputError(f"{place}: there is no such entry; the list has {len(tree)}")
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
            raise InputError(f"{place}: {tree!r} is a plain value; it holds no keys to set")


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
