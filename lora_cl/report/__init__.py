"""Records in, tables out. Nothing here trains, and nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora_cl.errors import ResultsError
from lora_cl.records.folders import Notice, load_records, unheard
from lora_cl.report.aggregate import Comparison, aggregate, compared
from lora_cl.report.columns import COLUMNS
from lora_cl.report.differences import differences
from lora_cl.report.frame import to_frame
from lora_cl.report.reading import check
from lora_cl.report.selection import Selection, matching_labels
from lora_cl.report.tables import FORMATS, render

__all__ = [
    "COLUMNS",
    "FORMATS",
    "Comparison",
    "Selection",
    "aggregate",
    "compare_table",
    "comparisons",
    "differences",
    "matching_labels",
    "measured",
    "render",
    "to_frame",
]

EVERYTHING = Selection()


def comparisons(
    paths: Sequence[Path], selection: Selection = EVERYTHING, notice: Notice = unheard
) -> list[Comparison]:
    """The comparisons of the run folders below ``paths`` that are asked for.

    ``notice`` hears of places that were not looked into. Raises ResultsError if there are none,
    ConfigError if something that is asked for is unknown.
    """
    records = load_records(paths, notice)
    places = ", ".join(map(str, paths))
    if not records:
        raise ResultsError(f"no runs in {places}; `lora-cl run CONFIG` makes some")
    runs = selection.runs([check(record) for record in records])
    if not runs:
        raise ResultsError(f"none of the {len(records)} runs in {places} is what is asked for")
    return selection.sorted(compared(runs))


def measured(found: Sequence[Comparison]) -> bool:
    """Whether any run of the comparisons is done."""
    return any(row.seeds for one in found for row in one.rows)


def compare_table(
    paths: Sequence[Path],
    format: str = "table",  # noqa: A002
    details: bool = False,
    width: int | None = None,
    color: bool = False,
    selection: Selection = EVERYTHING,
    notice: Notice = unheard,
) -> str:
    """``comparisons`` as text; see ``render`` for the rest."""
    found = comparisons(paths, selection, notice)
    return render(found, format, details, width, color, selection.chosen_columns(found))
