"""What a study file may say about data: sources of examples, pairs and prompts."""

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from raydaa.settings.base import Json, Settings, Shares, wrong
from raydaa.settings.limits import Natural, NonNegative, PositiveFloat, PositiveInt

HELD_OUT = "preferences.validation"  # as a source: the prompts of the held-out pairs
PREFERRED = "preferences.chosen"  # as a source of SFT examples: what the training pairs prefer
HEAD = 32  # of the built-in world's attention: the smallest that vLLM has CPU kernels for


class PromptSource(Settings):
    not_in_keys: ClassVar[frozenset[str]] = frozenset({"source", "split"})  # known by their rows
    source: str = HELD_OUT
    split: str | None = "train"
    num: PositiveInt = 500
    columns: dict[str, str] = Field(default_factory=dict)


class PocketSettings(Settings):
    """Sizes of the built-in offline world; used where a source is ``pocket``."""

    seed: Natural = 0
    hidden_size: Annotated[PositiveInt, Field(multiple_of=HEAD)] = 3 * HEAD
    num_sft: PositiveInt = 4000
    num_pairs: PositiveInt = 2000
    num_validation: PositiveInt = 400
    num_prompts: PositiveInt = 300
    noise: NonNegative = 1.0


class ChatTemplateSettings(Settings):
    """The template that is spoken instead of the model's own, and what every rendering of it is given."""

    file: str | None = None  # Jinja
    # e.g. {enable_thinking: false}
    arguments: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], Json] = Field(default_factory=dict)


class SftSource(Settings):
    not_in_keys: ClassVar[frozenset[str]] = frozenset({"source", "split"})  # known by their rows
    source: str
    split: str | None = "train"  # null: a column of that name is one like any other
    columns: dict[str, str] = Field(default_factory=dict)
    weight: PositiveFloat = 1.0  # how often each example stands in the mixture: 0.5 takes half of them, 2 all twice
    unique: bool = False  # of preferences.chosen: each response once, and none that another pair rejects

    @model_validator(mode="after")
    def check(self) -> "SftSource":
        if self.unique and self.source != PREFERRED:
            raise wrong(f"tells preferred responses from rejected ones; only {PREFERRED} has both", "unique")
        return self


def several(value: object) -> object:
    """One source, or a list of them."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Mixture = Annotated[tuple[SftSource, ...], BeforeValidator(several)]


class PreferenceSource(Settings):
    # Known by their rows; and each trial takes its own fraction.
    not_in_keys: ClassVar[frozenset[str]] = frozenset({"source", "train", "validation", "fraction"})
    source: str
    train: str | None = "train"  # null: the column split is not looked into
    validation: str | Annotated[float, Field(gt=0, lt=1)] = 0.05
    fraction: Shares = (1.0,)
    columns: dict[str, str] = Field(default_factory=dict)
    unique: bool = False  # each comparison once, however often it stands in the source


class DataSettings(Settings):
    sft: Mixture = ()
    preferences: PreferenceSource
    prompts: PromptSource = PromptSource()
    chat_template: ChatTemplateSettings = ChatTemplateSettings()
    max_length: PositiveInt = 1024
    max_rejected_share: Annotated[float, Field(ge=0, le=1)] = 0.1
