"""Numbers with limits, for settings that travel to workers: pydantic reads them, and is not needed to import them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Limit:
    """Bounds of a number that pydantic checks; infinity is out of bounds where ``finite``."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    finite: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        schema = dict(handler(source))
        for name in ("gt", "ge", "lt", "le"):
            if getattr(self, name) is not None:
                schema[name] = getattr(self, name)
        if self.finite:
            schema["allow_inf_nan"] = False
        return schema


@dataclass(frozen=True)
class OneOrMore:
    """One word may stand for a list of one."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core.core_schema import no_info_before_validator_function

        return no_info_before_validator_function(lambda v: (v,) if isinstance(v, str) else v, handler(source))


PositiveInt = Annotated[int, Limit(gt=0)]
Natural = Annotated[int, Limit(ge=0)]
PositiveFloat = Annotated[float, Limit(gt=0, finite=True)]
NonNegative = Annotated[float, Limit(ge=0, finite=True)]
Share = Annotated[float, Limit(gt=0, le=1)]
ShareBelowOne = Annotated[float, Limit(ge=0, lt=1)]
Names = Annotated[tuple[str, ...], OneOrMore()]
