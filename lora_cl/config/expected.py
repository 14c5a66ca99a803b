"""What was published for a config: the numbers that `lora-cl verify` holds ours against."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import Field

from lora_cl.config.model import Name, short
from lora_cl.options import AtKeyError, OptionsBase
from lora_cl.text import did_you_mean


class CellOptions(OptionsBase):
    """A published number: `mean` and `sem`, its standard error over `n` seeds, as fractions."""

    mean: float = Field(ge=-1.0, le=1.0)
    """The mean over seeds, a fraction."""
    sem: float | None = Field(default=None, ge=0.0, le=1.0)
    """Its standard error; null where none was published."""
    n: int | None = Field(default=None, ge=1)
    """Over how many seeds; null where that was not published."""
    measure: Literal[
        "average_accuracy",
        "average_incremental_accuracy",
        "learning_accuracy",
        "forgetting",
        "backward_transfer",
        "forward_transfer",
    ] = "average_accuracy"
    """Of what, by the names of `compare --format json`."""
    note: str | None = None
    """Where the protocol is known to be another, or why the numbers part."""


class ExpectOptions(OptionsBase):
    """What was published: `source` and, by label, the cells of its table.

    `quick`: the labels that `lora-cl verify --quick` runs, with two seeds; null: all.
    """

    source: str = Field(min_length=1)
    """Whose numbers these are: a citation with its DOI or arXiv number."""
    cells: Annotated[dict[Name, CellOptions], Field(min_length=1)]
    """The published numbers, by label."""
    quick: Annotated[list[Name], Field(min_length=1)] | None = None
    """What `--quick` runs: labels whose runs are cheap and whose numbers are tight; null: all."""

    def require_labels(self, labels: Collection[str]) -> None:
        """Raises AtKeyError, below `expect`, for a label that is none of ``labels``."""
        for label in self.cells:
            _require(label, labels, ["expect", "cells", label])
        for label in self.quick or ():
            _require(label, self.cells, ["expect", "quick"])


def _require(label: str, known: Collection[str], path: list[str]) -> None:
    if label not in known:
        hint, there = did_you_mean(label, known), ", ".join(known)
        raise AtKeyError(path, f"no label is {short(label)}{hint}; there are {there}")
