"""The comparison table: for a terminal, a paper, a page, a spreadsheet or a program."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lora_cl.report import layout, machine, markup
from lora_cl.report.aggregate import Experiment

FORMATS = ("table", "markdown", "latex", "csv", "json")
UNBOUNDED = 1000
# Where a table cannot be read any more, let the terminal break the lines.
NARROWEST = 76


def render(
    experiments: Sequence[Experiment],
    format: str = "table",  # noqa: A002
    details: bool = False,
    width: int | None = None,
    color: bool = False,
) -> str:
    """The experiments as text in one of FORMATS, ending in a newline; one table per experiment.

    ``details`` adds what the methods recorded about themselves. ``width`` is that of the terminal
    in columns, None for as wide as it gets; ``color`` allows escape codes. Both concern only the
    format "table". Raises ValueError for another format.
    """
    if format == "json":
        return machine.json_text(experiments, details)
    if format == "csv":
        return machine.csv_text(experiments, details)
    if format in ("markdown", "latex"):
        return "\n".join(_marked_up(experiment, details, format) for experiment in experiments)
    if format != "table":
        raise ValueError(f"unknown format {format!r}; there are {', '.join(FORMATS)}")
    out = io.StringIO()
    console = Console(
        file=out,
        width=max(width, NARROWEST) if width else UNBOUNDED,
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
    )
    for experiment in experiments:
        for part in _parts(experiment, details, console, color):
            console.print(part)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).rstrip() + "\n"


def _marked_up(experiment: Experiment, details: bool, format: str) -> str:  # noqa: A002
    rows = experiment.rows
    accuracy, cost = layout.accuracy_block(rows), layout.cost_block(rows)
    # A page of paper is too narrow for all columns side by side.
    blocks = [accuracy.beside(cost)] if format == "markdown" else [accuracy, cost]
    routing = layout.routing_block(rows)
    write = markup.markdown if format == "markdown" else markup.latex
    return write(
        layout.title(experiment),
        blocks + ([routing] if routing else []),
        layout.notes(experiment) + (layout.details(rows) if details else []),
    )


def _parts(
    experiment: Experiment, details: bool, console: Console, bold: bool
) -> list[RenderableType]:
    rows = experiment.rows
    accuracy, cost = layout.accuracy_block(rows), layout.cost_block(rows)
    routing = layout.routing_block(rows)
    whole = _table(accuracy.beside(cost), bold)
    natural = console.measure(whole, options=console.options.update(max_width=UNBOUNDED)).maximum
    tables = [whole] if natural <= console.width else [_table(accuracy, bold), _table(cost, bold)]
    tables += [_table(routing, bold)] if routing else []
    parts: list[RenderableType] = [Text(layout.title(experiment), style="bold")]
    for table in tables:
        parts += [table, Text("")]
    notes = layout.notes(experiment)
    if not bold and any(cell.best for row in accuracy.rows for cell in row):
        notes.insert(1, "* the best of its column.")
    parts += [Padding(Text(note, style="dim"), (0, 0, 0, 2)) for note in notes]
    if details:
        lines = layout.details(rows) or ["no method recorded details"]
        parts += [Text("\nDetails"), *(Padding(Text(line), (0, 0, 0, 2)) for line in lines)]
    return [*parts, Text("")]


def _table(block: layout.Block, bold: bool) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True
    )
    for index, header in enumerate(block.headers):
        # A number is never folded or cut; a long label is folded.
        if index:
            table.add_column(
                Text("\n".join(layout.two_lines(header))), justify="right", no_wrap=True
            )
        else:
            table.add_column(Text(header), overflow="fold", vertical="bottom")
    for row in block.rows:
        # Without bold the best is marked by a star, and the others keep in line with it.
        starred = [any(line[i].best for line in block.rows) for i in range(len(row))]
        table.add_row(
            *(
                Text(cell.text, style="bold" if bold and cell.best else "")
                if bold or not starred[i]
                else Text(cell.text + (" *" if cell.best else "  "))
                for i, cell in enumerate(row)
            )
        )
    return table
