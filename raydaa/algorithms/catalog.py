"""Methods by name: the built-in ones, and those of your own as ``package.module:Class`` or as a class."""

import inspect
from dataclasses import MISSING, dataclass, fields
from typing import Any

from raydaa.algorithms.losses import METHODS
from raydaa.algorithms.method import Method, check_traits
from raydaa.user_code import imported, source_hash

# Classes given from Python, by the name they travel under; a worker learns them before it trains.
_own: dict[str, type[Method]] = {}


def is_custom(name: str) -> bool:
    """Whether ``name`` means code outside this package."""
    return ":" in name


def is_known(name: str) -> bool:
    """Whether `method_class` needs to import nothing for ``name``."""
    return not is_custom(name) or name in _own


def register(cls: type[Method]) -> str:
    """Make a class of your own known under the name it returns, ``package.module:Class``; ValueError if unfit."""
    if not (inspect.isclass(cls) and issubclass(cls, Method)):
        raise ValueError(f"{cls!r} is not a method; derive a class from raydaa.Method")
    check_traits(cls)
    if cls.name in METHODS:
        raise ValueError(f"{cls.__name__} calls itself {cls.name!r}, which is built in; give it a name of its own")
    name = f"{cls.__module__}:{cls.__qualname__}"
    _own[name] = cls
    return name


def method_class(name: str) -> type[Method]:
    """The loss called ``name``; ValueError with the choices where there is none.

    A name with a colon imports the module before it: ask `is_custom` first where code must be allowed.
    """
    if name in METHODS:
        return METHODS[name]
    if not is_custom(name):
        raise ValueError(f"{name!r} is not a method; choose from {', '.join(sorted(METHODS))}, or module:Class")
    if name not in _own:
        register(_imported(name))
    return _own[name]


def _imported(name: str) -> Any:
    value = imported(name)
    if inspect.isclass(value) and f"{value.__module__}:{value.__qualname__}" != name:
        raise ValueError(f"{name!r} is defined elsewhere; name it {value.__module__}:{value.__qualname__}")
    return value


def code_hash(name: str) -> str | None:
    """Identity of an own method's code, None for a built-in one: the source of the modules that define it.

    A class typed into a script or notebook counts alone. ValueError where no source can be read.
    """
    if not is_custom(name):
        return None
    classes = [
        cls for cls in inspect.getmro(method_class(name)) if not cls.__module__.startswith(("raydaa.", "builtins"))
    ]
    return source_hash(name, classes)


def display_name(method: str, parameters: dict[str, Any]) -> str:
    """``ipo (per token)``: another normalisation than the method's own is another method with another β."""
    cls = method_class(method)
    normalized = parameters.get("length_normalized", cls.length_normalized)
    if normalized == cls.length_normalized:
        return cls.name
    return f"{cls.name} ({'per token' if normalized else 'summed'})"


def loss(method: str | type[Method], **hyper_parameters: Any) -> Method:
    """A loss by name or class: ``loss("dpo", beta=0.1)(PairLogps(…))``.

    Args:
        method: A built-in method's name, ``module:Class``, or a class over `Method`.
        **hyper_parameters: The method's own fields.

    Returns:
        The loss, a frozen dataclass that is called with `PairLogps`.

    Raises:
        ValueError: On an unknown name, an unknown or missing field, or a value that it refuses.
    """
    cls = method_class(method) if isinstance(method, str) else method
    known = {field.name: field.default is MISSING for field in fields(cls)}
    for parameter in hyper_parameters:
        if parameter not in known:
            raise ValueError(f"{parameter!r} is not a parameter of {cls.name}; choose from {', '.join(known)}")
    for parameter, required in known.items():
        if required and parameter not in hyper_parameters:
            raise ValueError(f"{cls.name} needs {parameter}")
    return cls(**hyper_parameters)


@dataclass(frozen=True)
class Description:
    """One row of the table of methods."""

    name: str
    formula: str
    ranking: str
    score: str
    defaults: str
    source: str


def describe(cls: type[Method]) -> Description:
    """What a method's docstring, fields and traits say of it."""
    lines = (inspect.getdoc(cls) or "").splitlines()
    source = next((line.removeprefix("Source: ") for line in lines if line.startswith("Source: ")), "")
    shown = [field for field in fields(cls) if field.name != "length_normalized"]
    defaults = [f"{field.name} = {field.default:g}" for field in shown if isinstance(field.default, int | float)]
    normalized = ", per token" if cls.length_normalized else ""
    formula = lines[0] if lines else ""
    return Description(cls.name, formula, cls.ranking, cls.score + normalized, ", ".join(defaults), source)


def table() -> str:
    """All built-in methods as a Markdown table."""
    header = ("method", "loss per pair", "ranking", "score", "defaults", "source")
    rows = [header, *((*vars(describe(cls)).values(),) for cls in METHODS.values())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    padded.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in padded)
