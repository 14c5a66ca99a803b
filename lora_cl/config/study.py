"""What a file can say besides a config: the keys that make several configs of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from lora_cl.config.chosen import with_chosen
from lora_cl.config.expected import ExpectOptions
from lora_cl.config.model import Config, short
from lora_cl.options import AtKeyError, OptionsBase
from lora_cl.text import did_you_mean

MAX_POINTS = 1000

MAX_TRIALS = 10_000

Sweep = dict[str, Annotated[list[Any], Field(min_length=1)]]


Number = Annotated[float, Field(allow_inf_nan=False)]


class RangeOptions(OptionsBase):
    """Values between two bounds: `uniform`, or evenly in the logarithm, `log`; `integer`: whole
    ones, evenly in the logarithm, from 1 on."""

    uniform: tuple[Number, Number] | None = None
    """Evenly between these two bounds."""
    log: tuple[Number, Number] | None = None
    """Between these two bounds, evenly in the logarithm."""
    integer: tuple[int, int] | None = None
    """Whole numbers between these two bounds, evenly in the logarithm."""

    @property
    def kind(self) -> str:
        return next(name for name in RANGES if getattr(self, name) is not None)

    @property
    def bounds(self) -> tuple[float, float]:
        low, high = getattr(self, self.kind)
        return low, high

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        return value

    @model_validator(mode="after")
    def _one_range(self) -> RangeOptions:
        given = [name for name in RANGES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(RANGES)}")
        low, high = self.bounds
        if not low < high:
            raise AtKeyError(given, f"the first bound is not below the second: {low}, {high}")
        if self.kind != "uniform" and low <= 0:
            raise AtKeyError(given, f"{low} has no logarithm; the bounds should be above 0")
        return self


RANGES = ("uniform", "log", "integer")

Values = Annotated[list[Any], Field(min_length=1)]


def _list_or_range(value: Any) -> str:
    return "list" if isinstance(value, list) else "range"


ListOrRange = Annotated[
    Annotated[Values, Tag("list")] | Annotated[RangeOptions, Tag("range")],
    Discriminator(_list_or_range),
]


class TuneOptions(OptionsBase):
    """How `lora-cl tune` searches: `trials` for every method, the first with the config's own
    values, on the first `tasks` tasks (null: all). A grid has as many as there are combinations.

    `space`: keys of `train`, for every method, or of single methods, such as
    `methods.lora.rank`, with a list of values or a range. `seeds`: a list, or a number of seeds
    that the config does not have. `validation`: the share held out where the config has none.
    `prune`: median, after each seed the worse half goes no further. `search`: random, grid or tpe.
    """

    trials: int = Field(default=10, ge=1, le=MAX_TRIALS)
    """Trials of every method; the first has the config's own values. Not of a grid."""
    tasks: int | None = Field(default=2, ge=1)
    """How many tasks, the first ones, are trained on; null: all."""
    seeds: int | list[Annotated[int, Field(ge=0, lt=2**31)]] = 1
    """Seeds to tune on: a list, or a number of seeds that the config does not have."""
    space: Annotated[dict[str, ListOrRange], Field(min_length=1)] = Field(
        default={"train.lr": RangeOptions(log=(1e-5, 1e-1))}
    )
    """Keys of `train` or of single methods, each with a list of values or a range."""
    search: Literal["random", "grid", "tpe"] = "random"
    """`random`; `grid`, every combination of the values, all in lists; `tpe`, which Optuna does."""
    prune: Literal["median", "none"] = "median"
    """`median`: after each seed the worse half goes no further."""
    validation: float = Field(default=0.1, gt=0.0, lt=1.0)
    """The share held out to choose by, where the config has none."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of the search."""

    @model_validator(mode="after")
    def _some_seeds(self) -> TuneOptions:
        seeds = self.seeds
        if isinstance(seeds, int) and seeds < 1:
            raise AtKeyError(["seeds"], f"{seeds} is not allowed: one seed at least is needed")
        if isinstance(seeds, list) and (not seeds or len(set(seeds)) < len(seeds)):
            raise AtKeyError(["seeds"], f"{short(seeds)} is empty or holds a seed twice")
        return self

    def seeds_beside(self, others: Sequence[int]) -> list[int]:
        """The seeds to tune on: those given, or as many that are none of ``others``."""
        if isinstance(self.seeds, list):
            return self.seeds
        return [max(others) + 1 + index for index in range(self.seeds)]


class ConfigFile(Config):
    """An experiment as it stands in a file.

    `sweep`: values of dotted keys, such as `methods.lora.rank: [1, 2, 4]`. Every combination of
    them is run, and the rows of the table are named by what varies.
    """

    sweep: Sweep | None = None
    """Values of dotted keys; every combination is run, a row each."""
    tune: TuneOptions | None = None
    """How `lora-cl tune` searches."""
    expect: ExpectOptions | None = None
    """What was published for it; `lora-cl verify` compares."""

    @model_validator(mode="before")
    @classmethod
    def _chosen(cls, value: Any) -> Any:
        return with_chosen(value)

    @model_validator(mode="after")
    def _expectable(self) -> ConfigFile:
        if self.expect is not None and self.sweep:
            raise AtKeyError(["expect"], "goes with one config, not with a sweep")
        if self.expect is not None:
            self.expect.require_labels(self.methods)
        return self

    @model_validator(mode="after")
    def _sweepable(self) -> ConfigFile:
        sweep = self.sweep or {}
        for key, values in sweep.items():
            if problem := self._not_to_be_set(key):
                raise AtKeyError(["sweep", key], f"is not to be swept: {problem}")
            for index, value in enumerate(values):
                if any(type(value) is type(one) and value == one for one in values[:index]):
                    raise AtKeyError(["sweep", key], f"{short(value)} is given twice")
        if (points := prod(map(len, sweep.values()))) > MAX_POINTS:
            message = f"{points:,} combinations are more than {MAX_POINTS:,}"
            raise AtKeyError(["sweep"], message)
        return self

    @model_validator(mode="after")
    def _tunable(self) -> ConfigFile:
        for key in self.tune.space if self.tune else ():
            path = ["tune", "space", key]
            if problem := self._not_to_be_set(key):
                raise AtKeyError(path, f"is not to be tuned: {problem}")
            if key.partition(".")[0] not in ("train", "methods"):
                raise AtKeyError(path, "is not to be tuned: it is no key of train or of a method")
        return self

    def _not_to_be_set(self, key: str) -> str:
        """Why a dotted key of the config cannot have several values; empty if it can."""
        first, _, rest = key.partition(".")
        if first in NOT_SWEPT:
            return NOT_SWEPT[first]
        if key in ("method", "methods", *(f"methods.{label}" for label in self.methods)):
            return "name a key of a method, or give several labels"
        if first == "methods" and not any(rest.startswith(f"{one}.") for one in self.methods):
            label = rest.partition(".")[0]
            told = ", ".join(self.methods)
            return (
                f"no label is {short(label)}{did_you_mean(label, self.methods)}; there are {told}"
            )
        return ""

    def config(self) -> Config:
        """Without the keys that are of the file alone."""
        return Config.model_construct(**{name: getattr(self, name) for name in Config.model_fields})


FILE_KEYS = tuple(name for name in ConfigFile.model_fields if name not in Config.model_fields)

NOT_SWEPT = {
    "name": "it is the name of all the runs",
    "seeds": "list them under seeds",
    **dict.fromkeys(FILE_KEYS, "it is no part of a config"),
}


def grid(sweep: Sweep | None) -> Iterator[Mapping[str, Any]]:
    """Every combination of the values of ``sweep``, the last key varying fastest; none of none."""
    if sweep:
        for values in product(*sweep.values()):
            yield dict(zip(sweep, values, strict=True))
