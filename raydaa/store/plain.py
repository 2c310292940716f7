"""Frozen dataclasses as plain values for JSON, and back by the types of their fields."""

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Value = TypeVar("Value")


def to_plain(value: Any) -> Any:
    """Dataclasses as dictionaries of their fields, paths as text, whatever holds them."""
    if is_dataclass(value):
        return {known.name: to_plain(getattr(value, known.name)) for known in fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {name: to_plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(inner) for inner in value]
    return value.value if isinstance(value, Enum) else value


def from_plain(kind: type[Value], value: Mapping[str, Any]) -> Value:
    """Back from `to_plain`, or from JSON that it became; TypeError where a field is missing or unknown."""
    hints = get_type_hints(kind)
    unknown = set(value) - {known.name for known in fields(kind)}  # type: ignore[arg-type]
    if unknown:
        raise TypeError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    return kind(**{name: typed_value(hints[name], inner) for name, inner in value.items()})


def typed_value(hint: Any, value: Any) -> Any:
    """``value`` as a field of type ``hint`` holds it."""
    origin = get_origin(hint)
    arguments = get_args(hint)
    if value is None:
        return None
    if origin in (Union, types.UnionType):
        held = [part for part in arguments if is_dataclass(part) or get_origin(part) in (tuple, list, dict)]
        return typed_value(held[0], value) if len(held) == 1 else value
    if origin is not None:
        return _held(origin, arguments, value)
    if isinstance(hint, type) and is_dataclass(hint):
        return from_plain(hint, value)
    if isinstance(hint, type) and issubclass(hint, Path | Enum):
        return hint(value)
    return value


def _held(origin: Any, arguments: tuple[Any, ...], value: Any) -> Any:
    """The members of a tuple, a list or a mapping; anything else as it is."""
    if origin is tuple:
        kinds = arguments if arguments[-1] is not Ellipsis else (arguments[0],) * len(value)
        return tuple(typed_value(kind, inner) for kind, inner in zip(kinds, value, strict=True))
    if origin is list:
        return [typed_value(arguments[0], inner) for inner in value]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {name: typed_value(arguments[1], inner) for name, inner in value.items()}
    return value
