"""Plots as files for a paper: PDF, SVG and PNG at the width of a column, and what is in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lora_cl.records.output import write_output
from lora_cl.report.aggregate import Comparison
from lora_cl.report.figures.drawing import FORMATS, rendered
from lora_cl.report.figures.overview import overview
from lora_cl.report.figures.rows import row_plots
from lora_cl.report.layout import title
from lora_cl.report.markup import markdown_text

CAPTIONS = "captions.md"


def write_figures(found: Sequence[Comparison], folder: Path) -> int:
    """Every plot of the comparisons in each of FORMATS, and ``captions.md``; how many plots.

    Files that are called so are replaced, others stay. Raises OSError.
    """
    lines: list[str] = []
    taken: set[str] = set()
    plots = 0
    for comparison in found:
        lines += [f"# {markdown_text(title(comparison))}", ""]
        place = _slug(title(comparison))
        rows = [plot for row in comparison.rows for plot in row_plots(row)]
        for plot in [*overview(comparison), *rows]:
            parts = (place, _slug(plot.label), _slug(plot.name))
            name = _free("-".join(filter(None, parts)), taken)
            for format in FORMATS:  # noqa: A001
                write_output(folder / f"{name}.{format}", rendered(plot, format))
            lines += [f"## {name}", "", markdown_text(f"{plot.title}. {plot.caption}"), ""]
            plots += 1
    write_output(folder / CAPTIONS, "\n".join(lines).encode())
    return plots


def _slug(text: str) -> str:
    """The text as part of a file's name on any system."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80]


def _free(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free)
    return free
