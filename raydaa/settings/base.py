"""What all settings are made of: groups, values to search, and how one is refused."""

import json
import math
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    model_validator,
)
from pydantic_core import PydanticCustomError


def wrong(message: str, at: str = "") -> PydanticCustomError:
    """An error at ``at`` inside the value being checked; braces would be a template to pydantic."""
    return PydanticCustomError("study", "{message}", {"message": message, "at": at})


class Settings(BaseModel):
    """Frozen; unknown keys are refused.

    A stage whose outputs depend on such settings takes all of them into its keys but those ``not_in_keys``, which
    change nothing but time, or stand there by what they come to: one that somebody forgets costs work done twice,
    never a wrong result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    not_in_keys: ClassVar[frozenset[str]] = frozenset()
    unwritten: ClassVar[frozenset[str]] = frozenset()  # fields whose level a study file leaves out

    def key_fields(self) -> dict[str, Any]:
        """What goes into keys."""
        return self.model_dump(mode="json", exclude=set(self.not_in_keys))


Group = TypeVar("Group")


def validated(kind: type[Group], values: dict[str, Any]) -> Group:
    """A group of settings that is a plain dataclass; ValidationError where a value is none of its."""
    group: Group = _adapter(kind).validate_python(values)  # type: ignore[arg-type]  # a class is hashable
    return group


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)  # building one takes 500 times as long as asking it


def types_of(kind: type[Any]) -> dict[str, Any]:
    """What the values of a group of settings may be, by their names, without their limits."""
    if issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return {name: hint for name, hint in get_type_hints(kind).items() if not name.startswith("_")}


class Range(Settings):
    """Values between ``low`` and ``high``, sampled (``sampler: random`` or ``tpe``), not enumerated."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def check(self) -> "Range":
        if not self.low < self.high:
            raise wrong(f"low {self.low!r} is not below high {self.high!r}")
        if self.log and self.low <= 0:
            raise wrong(f"low {self.low!r} has no logarithm; a log range starts above 0")
        return self


def searched(value: Any) -> Any:
    """One value, a list of values, or ``{low, high, log}``, as a tuple of values or a Range."""
    if isinstance(value, dict):
        unknown = set(value) - {"low", "high", "log"}
        if unknown or not {"low", "high"} <= set(value):
            raise wrong(f"{value!r} is not a range; write {{low: …, high: …, log: true}}")
        return Range(**value)
    if isinstance(value, Range):
        return value
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not values:
        raise wrong("an empty list leaves nothing to search; name at least one value")
    if any(isinstance(v, list | dict | tuple) for v in values):
        raise wrong(f"{value!r} holds more than plain values; write one value, a list, or a range")
    if len(set(map(repr, values))) < len(values):
        raise wrong(f"{list(values)!r} names a value twice")
    return values


def positive_rates(value: Any) -> Any:
    """A learning rate as `searched` gives it, every value a number above 0."""
    value = searched(value)
    for rate in values_of(value):
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not math.isfinite(rate) or rate <= 0:
            raise wrong(f"{rate!r} is not a number above 0")
    return value


def shares(value: Any) -> Any:
    """A share of the data as `searched` gives it, every value above 0 and at most 1."""
    value = positive_rates(value)
    for share in values_of(value):
        if share > 1:
            raise wrong(f"{share!r} is not a share between 0 and 1")
    return value


Searched = Annotated[tuple[Any, ...] | Range, BeforeValidator(searched)]
Rates = Annotated[tuple[float, ...] | Range, BeforeValidator(positive_rates)]
Shares = Annotated[tuple[float, ...] | Range, BeforeValidator(shares)]


def values_of(value: tuple[Any, ...] | Range) -> tuple[Any, ...]:
    """The values that are tried, or the ends of the range they are drawn from."""
    return (value.low, value.high) if isinstance(value, Range) else value


def finite(value: JsonValue) -> JsonValue:
    """``value``, which goes out as JSON or into a template; neither has a word for what is not finite."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise wrong("has a number that JSON can't say") from None
    return value


Json = Annotated[JsonValue, AfterValidator(finite)]


def share_or_whole(value: float, *, at: str = "") -> float:
    """A number of GPUs that one process, or several with one each, can have."""
    if value > 1 and value != int(value):
        raise wrong(f"{value:g} is neither a share of one GPU nor several whole ones", at)
    return value


Gpus = Annotated[float, Field(gt=0), AfterValidator(share_or_whole)]
