"""Ours against published numbers: how many standard errors apart, and whether that is too many.

The standard error of the difference is the root of the summed squares of both. Where none was
published, theirs is taken to be our standard deviation over the root of their n, as if their seeds
spread as ours do; where their n is not known either, their mean is taken as exact.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lora_cl.report.aggregate import Comparison, Row
from lora_cl.report.columns import seeds
from lora_cl.report.layout import Block, Cell
from lora_cl.report.sheets import FOR_PEOPLE, Sheet, written
from lora_cl.report.statistics import Summary
from lora_cl.text import NOTHING, one_line, percent

FORMATS = (*FOR_PEOPLE, "json")
WITHIN = 2.0
"""Standard errors of the difference that may lie between ours and theirs."""
FEW_SEEDS = 5
"""Of fewer, a standard error is itself known to no better than a third or so."""
PASS, FAIL, OPEN = "pass", "fail", "open"

HEADERS = (
    *("method", "ours", "n", "published", "n", "difference"),
    *("its standard error", "standard errors apart", "verdict"),
)
READING = (
    "In %: mean ± standard error over n seeds. A cell passes if ours and theirs are no more than "
    "two standard errors of the difference apart, the root of both squared and summed; open: there "
    "are not two seeds of ours."
)


@dataclass(frozen=True)
class Published:
    """A published ``mean`` with its standard error ``sem`` over ``n`` seeds, of ``measure``."""

    mean: float
    sem: float | None = None
    n: int | None = None
    measure: str = "average_accuracy"
    note: str | None = None


@dataclass(frozen=True)
class Table:
    """The published cells of an experiment by label, and where they are from."""

    experiment: str
    source: str
    cells: Mapping[str, Published]


@dataclass(frozen=True)
class Verdict:
    """A row of ours against what was published for it."""

    row: Row
    published: Published

    @property
    def ours(self) -> Summary:
        return self.row.measures[self.published.measure]

    @property
    def difference(self) -> float | None:
        return None if self.ours.mean is None else self.ours.mean - self.published.mean

    @property
    def standard_error(self) -> float | None:
        """Of the difference; None below two seeds of ours."""
        ours, theirs = self.ours, self.published
        if ours.sem is None or ours.std is None:
            return None
        assumed = ours.std / math.sqrt(theirs.n) if theirs.n else 0.0
        return math.hypot(ours.sem, assumed if theirs.sem is None else theirs.sem)

    @property
    def apart(self) -> float | None:
        """The difference in standard errors of it; infinite where these are 0 and it is not."""
        if self.difference is None or self.standard_error is None:
            return None
        if self.standard_error == 0:
            return math.copysign(math.inf, self.difference) if self.difference else 0.0
        return self.difference / self.standard_error

    @property
    def verdict(self) -> str:
        if self.apart is None:
            return OPEN
        return PASS if abs(self.apart) <= WITHIN else FAIL

    @property
    def weak(self) -> bool:
        return self.verdict != OPEN and self.ours.n < FEW_SEEDS


def verdicts(comparisons: Sequence[Comparison], tables: Sequence[Table]) -> list[list[Verdict]]:
    """For each of the tables, its cells against our rows of that experiment and label."""
    ours = {(one.name, row.label): row for one in comparisons for row in one.rows}
    return [
        [
            Verdict(row, cell)
            for label, cell in table.cells.items()
            if (row := ours.get((table.experiment, label))) is not None
        ]
        for table in tables
    ]


def summary(found: Sequence[Sequence[Verdict]]) -> str:
    """How many cells are within two standard errors, of how many."""
    every = [one for table in found for one in table]
    told = [one.verdict for one in every]
    text = f"{told.count(PASS)} of {len(every)} within two standard errors"
    text += f", {told.count(OPEN)} open" if OPEN in told else ""
    if weak := sum(one.weak for one in every):
        text += f"; weak: {weak} of fewer than {FEW_SEEDS} seeds"
    return text


def verification(
    tables: Sequence[Table],
    found: Sequence[Sequence[Verdict]],
    format: str = "table",  # noqa: A002
    width: int | None = None,
    color: bool = False,
) -> str:
    """The verdicts as text in one of FORMATS, a table for each of ``tables``."""
    pairs = list(zip(tables, found, strict=True))
    if format == "json":
        objects = [_object(table, one) for table, several in pairs for one in several]
        lines = ",\n".join(json.dumps(one, allow_nan=False) for one in objects)
        return f"[\n{lines}\n]\n"
    sheets = [_sheet(table, several) for table, several in pairs]
    return f"{written(sheets, format, width, color)}\n{summary(found)}\n"


def _sheet(table: Table, found: Sequence[Verdict]) -> Sheet:
    scenarios = dict.fromkeys(f"{one.row.scenario}-incremental" for one in found)
    notes = [READING, f"Published: {one_line(table.source, 400)}"]
    if told := [one_line(v.row.label) for v in found if v.published.sem is None]:
        notes.append(
            f"{', '.join(told)}: no standard error was published; theirs is taken to be our "
            "standard deviation over the root of their n, or 0 where that is not known."
        )
    if any(one.weak for one in found):
        notes.append(
            f"Weak: of fewer than {FEW_SEEDS} seeds a standard error is itself known to no better "
            "than a third."
        )
    for one in found:
        if one.published.note is not None:
            notes.append(f"{one_line(one.row.label)}: {one_line(one.published.note, 1000)}")
    title = " · ".join([one_line(table.experiment), *scenarios, "ours against published"])
    return Sheet(title, [Block(HEADERS, tuple(map(_cells, found)))], notes=notes)


def _cells(one: Verdict) -> tuple[Cell, ...]:
    theirs = one.published
    measure = "" if theirs.measure == "average_accuracy" else f", {theirs.measure}"
    apart = one.apart
    texts = (
        one_line(one.row.label) + measure,
        _with_error(one.ours.mean, one.ours.sem),
        seeds(one.row),
        _with_error(theirs.mean, theirs.sem),
        NOTHING if theirs.n is None else str(theirs.n),
        NOTHING if one.difference is None else percent(one.difference),
        NOTHING if one.standard_error is None else percent(one.standard_error),
        NOTHING if apart is None else f"{apart:.1f}",
        one.verdict + (", weak" if one.weak else ""),
    )
    return tuple(map(Cell, texts))


def _with_error(mean: float | None, sem: float | None) -> str:
    if mean is None:
        return NOTHING
    return percent(mean) if sem is None else f"{percent(mean)} ± {percent(sem)}"


def _object(table: Table, one: Verdict) -> dict[str, Any]:
    apart = one.apart
    return {
        "experiment": table.experiment,
        "scenario": one.row.scenario,
        "label": one.row.label,
        "measure": one.published.measure,
        "ours": {**asdict(one.ours), "sem": one.ours.sem},
        "published": {key: getattr(one.published, key) for key in ("mean", "sem", "n")},
        "difference": one.difference,
        "standard_error": one.standard_error,
        "standard_errors": apart if apart is None or math.isfinite(apart) else None,
        "verdict": one.verdict,
        "weak": one.weak,
        "source": table.source,
        "note": one.published.note,
    }
