"""Which fields of a value its result depends on. Every field says so: one that nobody classified has no key."""

from dataclasses import MISSING, field, fields, is_dataclass
from typing import Any


def identity(default: Any = MISSING, default_factory: Any = MISSING) -> Any:
    """A field that the result depends on."""
    return field(default=default, default_factory=default_factory, metadata={"identity": True})


def timing(default: Any = MISSING) -> Any:
    """A field that changes nothing but how long it takes, what it needs, and when it is looked at or saved."""
    return field(default=default, metadata={"identity": False})


def place(default: Any = MISSING) -> Any:
    """A path: what lies there has an identity of its own."""
    return field(default=default, metadata={"identity": False})


def parts(default: Any = MISSING) -> Any:
    """A field that holds a value with fields of its own; each of them says what it is."""
    return field(default=default, metadata={"identity": None})


def identity_of(value: Any) -> dict[str, Any]:
    """Names and values of all fields that the result depends on, those of held values among them."""
    identity: dict[str, Any] = {}
    for known in fields(value):
        inner = getattr(value, known.name)
        counts = known.metadata["identity"]
        if counts is None:
            identity[known.name] = identity_of(inner) if is_dataclass(inner) else inner
        elif counts:
            identity[known.name] = inner
    return identity
