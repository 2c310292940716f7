"""What a study file may say about trials: methods, values to search, and when a trial is stopped."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, model_validator

from raydaa.settings.base import Range, Rates, Searched, Settings, Shares, types_of, validated, values_of, wrong
from raydaa.settings.limits import Names, Natural, PositiveFloat, PositiveInt, Share
from raydaa.settings.training import TrainingSettings

NO_GRID = "a range has no grid; list the values, or set sampler: tpe or random"
FRACTION = "data.preferences.fraction"  # of the training pairs, the same ones for all trials that use as many


class MethodSettings(Settings):
    """One entry of ``search.methods``: the loss's own fields, and what it overrides for its trials."""

    unwritten: ClassVar[frozenset[str]] = frozenset({"parameters"})
    name: str
    parameters: dict[str, Searched] = Field(default_factory=dict)
    learning_rate: Rates | None = None
    init: Names | None = None
    sft_weight: Searched = (0.0,)
    align_weight: Searched = (1.0,)
    fraction: Shares | None = None  # in the file ``data.preferences.fraction``, whose place it takes
    training: dict[str, Searched] = Field(default_factory=dict)
    num_trials: PositiveInt | None = None

    @model_validator(mode="before")
    @classmethod
    def gather(cls, value: Any) -> Any:
        """Loss fields stand beside the other keys in the file; here they move into ``parameters``."""
        if not isinstance(value, dict):
            raise wrong(f"{value!r} is not a method entry; write {{name: dpo, beta: […]}}")
        for key in ("parameters", "training"):
            if not isinstance(value.get(key, {}), dict):
                raise wrong(f"{value[key]!r} is not a group of settings; write {{key: value, …}}", key)
        entry: dict[str, Any] = {"parameters": dict(value.get("parameters", {})), "training": {}}
        for key, item in value.items():
            if key == "training":
                entry["training"].update(item)
            elif str(key).startswith("training."):
                entry["training"][key.removeprefix("training.")] = item
            elif key == FRACTION:
                entry["fraction"] = item
            elif key in cls.model_fields:
                entry[key] = item if key != "parameters" else entry[key]
            else:
                entry["parameters"][key] = item
        for key, item in entry["parameters"].items():  # a range may carry the number of trials
            if isinstance(item, dict) and "num_trials" in item:
                entry["num_trials"] = item["num_trials"]
                entry["parameters"][key] = {name: part for name, part in item.items() if name != "num_trials"}
        return entry

    @model_validator(mode="after")
    def check(self, info: ValidationInfo) -> "MethodSettings":
        from raydaa.algorithms.catalog import is_known, method_class

        if not is_known(self.name) and not (info.context or {}).get("allow_code"):
            raise wrong(f"{self.name!r} is code of your own; add --allow-code to run it", "name")
        try:
            cls = method_class(self.name)
        except ValueError as error:
            raise wrong(str(error), "name") from None
        self._check_parameters(cls)
        self._check_training()
        return self

    def _check_parameters(self, cls: Any) -> None:
        """Every value that would be tried must make a loss."""
        from raydaa.algorithms.objective import Objective

        known = {field.name: field.default is MISSING for field in fields(cls)}
        for key in self.parameters:
            if key not in known:
                others = sorted(set(type(self).model_fields) - {"name", "parameters", "fraction"} | {FRACTION})
                raise wrong(f"unknown key for {cls.name}; choose from {', '.join([*sorted(known), *others])}", key)
        for key, required in known.items():
            if required and key not in self.parameters:
                raise wrong(f"{cls.name} needs {key}; name the values to search", key)
        first = {key: values_of(value)[0] for key, value in self.parameters.items()}
        for key, value in self.parameters.items():
            for candidate in values_of(value):
                self._try(key, partial(cls, **{**first, key: candidate}))
        for key in ("sft_weight", "align_weight"):
            for candidate in values_of(getattr(self, key)):
                self._try(key, partial(Objective, cls(**first), **{key: candidate}))

    @staticmethod
    def _try(key: str, make: Callable[[], Any]) -> None:
        try:
            make()
        except (TypeError, ValueError) as error:
            field, colon, rule = str(error).partition(": ")  # a loss names the field that it refuses
            named = bool(colon) and field.isidentifier()
            raise wrong(rule if named else str(error), field if named else key) from None

    def _check_training(self) -> None:
        kinds = types_of(TrainingSettings)
        for key, value in self.training.items():
            if key not in kinds:
                choices = ", ".join(sorted(kinds))
                raise wrong(f"unknown key; choose from {choices}", f"training.{key}")
            if isinstance(value, Range) and kinds[key] is not float:
                raise wrong("only fractional numbers are drawn from a range; list the values", f"training.{key}")
            for candidate in values_of(value):
                try:
                    checked = getattr(validated(TrainingSettings, {key: candidate}), key)
                except ValueError:
                    raise wrong(f"{candidate!r} is not a valid value", f"training.{key}") from None
                if checked != candidate:
                    raise wrong(f"{candidate!r} is not a plain number or word", f"training.{key}")


class EarlyStopping(Settings):
    within: Literal["beta", "method"] = "beta"
    rungs: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.1, 0.3)
    keep: Share = 0.5  # 0.35 inside a method, where more trials compete

    @model_validator(mode="before")
    @classmethod
    def fewer_of_many(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("within") == "method":
            return {"keep": 0.35, **value}
        return value

    @model_validator(mode="after")
    def check(self) -> "EarlyStopping":
        if list(self.rungs) != sorted(set(self.rungs)):
            raise wrong(f"{list(self.rungs)!r} does not rise; write the shares from first to last", "rungs")
        return self


class Budget(Settings):
    """What a sweep may use: GPU-hours of training (worker-hours where there are no GPUs), or optimizer steps."""

    gpu_hours: PositiveFloat | None = None
    trial_steps: PositiveInt | None = None

    @model_validator(mode="after")
    def check(self) -> "Budget":
        if (self.gpu_hours is None) == (self.trial_steps is None):
            raise wrong("a budget is one number; write {gpu_hours: 100} or {trial_steps: 5000}")
        return self


class FinalistSettings(Settings):
    """After the sweep the best setting of each method is trained again, with seeds that it was not chosen by."""

    seeds: PositiveInt = 3  # of each


class SearchSettings(Settings):
    init: Names = ("sft",)
    learning_rate: Rates
    seeds: Annotated[tuple[Natural, ...], Field(min_length=1)] = (0,)
    methods: Annotated[tuple[MethodSettings, ...], Field(min_length=1)]
    sampler: Literal["grid", "tpe", "random"] = "grid"
    num_trials: PositiveInt = 12
    early_stopping: EarlyStopping | None = EarlyStopping()
    budget: Budget | None = None  # of the sweep; finalists come on top
    finalists: FinalistSettings | None = None

    @property
    def fresh_seeds(self) -> list[int]:
        """Of the finalists: after all that the sweep has."""
        first = max(self.seeds) + 1
        return [] if self.finalists is None else list(range(first, first + self.finalists.seeds))

    def starts_of(self, method: MethodSettings) -> tuple[str, ...]:
        """What ``method``'s trials start from: its own word, else the search's."""
        return method.init or self.init

    @model_validator(mode="after")
    def check(self) -> "SearchSettings":
        self._check_names()
        if self.sampler == "grid":
            for index, method in enumerate(self.methods):
                rates = method.learning_rate or self.learning_rate
                overrides = {f"training.{key}": value for key, value in method.training.items()}
                overrides[FRACTION] = method.fraction or ()
                for key, value in {"learning_rate": rates, **method.parameters, **overrides}.items():
                    if isinstance(value, Range) and method.num_trials is None:
                        setting = f"methods[{index}].{key}"
                        raise wrong(NO_GRID, setting)
        return self

    def _check_names(self) -> None:
        """Tables and folders know a method by the name it calls itself."""
        from raydaa.algorithms.catalog import method_class

        taken: dict[str, str] = {}
        for index, method in enumerate(self.methods):
            name = method_class(method.name).name
            if taken.setdefault(name, method.name) != method.name:
                raise wrong(
                    f"{method.name!r} and {taken[name]!r} both call themselves {name!r}", f"methods[{index}].name"
                )
