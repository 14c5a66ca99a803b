"""What a file can say besides a config: the keys that make several configs of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from typing import Annotated, Any

from pydantic import Field, model_validator

from lora_cl.config.model import Config, short
from lora_cl.options import AtKeyError
from lora_cl.text import did_you_mean

MAX_POINTS = 1000

Sweep = dict[str, Annotated[list[Any], Field(min_length=1)]]


class ConfigFile(Config):
    """An experiment as it stands in a file.

    `sweep`: values of dotted keys, such as `methods.lora.rank: [1, 2, 4]`. Every combination of
    them is run, and the rows of the table are named by what varies.
    """

    sweep: Sweep = Field(default={})

    @model_validator(mode="after")
    def _sweepable(self) -> ConfigFile:
        for key, values in self.sweep.items():
            if problem := self._not_to_be_set(key):
                raise AtKeyError(["sweep", key], f"is not to be swept: {problem}")
            for index, value in enumerate(values):
                if any(type(value) is type(one) and value == one for one in values[:index]):
                    raise AtKeyError(["sweep", key], f"{short(value)} is given twice")
        if (points := prod(map(len, self.sweep.values()))) > MAX_POINTS:
            message = f"{points:,} combinations are more than {MAX_POINTS:,}"
            raise AtKeyError(["sweep"], message)
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


def grid(sweep: Sweep) -> Iterator[Mapping[str, Any]]:
    """Every combination of the values of ``sweep``, the last key varying fastest; none of none."""
    if sweep:
        for values in product(*sweep.values()):
            yield dict(zip(sweep, values, strict=True))
