"""The comparison table: for a terminal, a paper, a page, a spreadsheet or a program."""

from __future__ import annotations

from collections.abc import Sequence

from lora_cl.report import layout, machine
from lora_cl.report.aggregate import Comparison
from lora_cl.report.baseline import Against, against, notes_of, to_the_best
from lora_cl.report.baseline import block as baseline_block
from lora_cl.report.columns import Column
from lora_cl.report.pivot import pivot
from lora_cl.report.sheets import FOR_PEOPLE, Sheet, written

FORMATS = (*FOR_PEOPLE, "csv", "json")
ACROSS = "average accuracy by scenario"


def render(
    comparisons: Sequence[Comparison],
    format: str = "table",  # noqa: A002
    details: bool = False,
    width: int | None = None,
    color: bool = False,
    columns: Sequence[Column] = (),
    baseline: str | None = None,
) -> str:
    """The comparisons as text in one of FORMATS, ending in a newline; one table per comparison.

    ``details`` adds what the methods recorded about themselves. ``width`` and ``color`` are as in
    ``written``. ``columns`` are shown in the place of the usual ones. ``baseline`` is the label of
    a row that the others are compared with, seed by seed. Raises ValueError for another format,
    ConfigError for a baseline that nothing can be compared with.
    """
    compared = against(comparisons, baseline) if baseline is not None else []
    if format == "json":
        return machine.json_text(comparisons, details, columns, compared)
    if format == "csv":
        return machine.csv_text(comparisons, details, columns, compared)
    if format not in FOR_PEOPLE:
        raise ValueError(f"unknown format {format!r}; there are {', '.join(FORMATS)}")
    sheets = [
        _sheet(one, details, columns, compared[index] if compared else None)
        for index, one in enumerate(comparisons)
    ]
    across = pivot(comparisons) if format == "latex" and not columns else None
    if across is not None:
        names = " and ".join(dict.fromkeys(one.name for one in comparisons))
        sheets.append(Sheet(f"{names}: {ACROSS}", [across], notes=[layout.READING]))
    return written(sheets, format, width, color)


def _sheet(
    comparison: Comparison, details: bool, columns: Sequence[Column], compared: Against | None
) -> Sheet:
    rows = comparison.rows
    routing = None if columns else layout.routing_block(rows)
    others = [routing] if routing else []
    notes = layout.notes(comparison)
    if compared is not None:
        others += [baseline_block(compared)] if compared.differences else []
        notes += notes_of(compared)
    told = layout.details(rows) + to_the_best(rows) if details else []
    return Sheet(
        layout.title(comparison),
        layout.blocks(rows, columns),
        others,
        notes,
        told or (["no method recorded details"] if details else []),
    )
