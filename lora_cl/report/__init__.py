"""Records in, tables out. Nothing here trains, and nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora_cl.errors import ResultsError
from lora_cl.records.folders import Notice, load_records, unheard
from lora_cl.report.aggregate import aggregate
from lora_cl.report.differences import differences
from lora_cl.report.frame import to_frame
from lora_cl.report.tables import FORMATS, render

__all__ = ["FORMATS", "aggregate", "compare_table", "differences", "render", "to_frame"]


def compare_table(
    paths: Sequence[Path],
    format: str = "table",  # noqa: A002
    details: bool = False,
    width: int | None = None,
    color: bool = False,
    notice: Notice = unheard,
) -> str:
    """The comparison of all run folders below ``paths``; see ``render`` for the rest.

    ``notice`` hears of places that were not looked into. Raises ResultsError if there are none.
    """
    records = load_records(paths, notice)
    if not records:
        places = ", ".join(map(str, paths))
        raise ResultsError(f"no runs in {places}; `lora-cl run CONFIG` makes some")
    return render(aggregate(records), format, details, width, color)
