"""Tables for people: drawn on a terminal, or written in markdown and LaTeX."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lora_cl.report import layout, markup

FOR_PEOPLE = ("table", "markdown", "latex")
UNBOUNDED = 1000
LEAST_NAME = 12
"""Characters of the first column that are shown in any case; longer names are folded."""


@dataclass(frozen=True)
class Sheet:
    """A title, blocks of the same rows, blocks of other rows, notes, and details below them."""

    title: str
    blocks: Sequence[layout.Block]
    others: Sequence[layout.Block] = ()
    notes: Sequence[str] = ()
    details: Sequence[str] = ()


def written(
    sheets: Sequence[Sheet],
    format: str = "table",  # noqa: A002
    width: int | None = None,
    color: bool = False,
) -> str:
    """The sheets in one of FOR_PEOPLE, ending in a newline.

    ``width`` is that of the terminal in characters, None for as wide as it gets; ``color`` allows
    escape codes. Both concern only the format "table".
    """
    if format == "table":
        return _drawn(sheets, width, color)
    write = markup.markdown if format == "markdown" else markup.latex
    return "\n".join(_marked_up(sheet, format, write) for sheet in sheets)


def _marked_up(sheet: Sheet, format: str, write: markup.Writer) -> str:  # noqa: A002
    # A page of paper is too narrow for all columns side by side.
    blocks = [layout.beside(sheet.blocks)] if format == "markdown" else list(sheet.blocks)
    return write(sheet.title, [*blocks, *sheet.others], [*sheet.notes, *sheet.details])


def _drawn(sheets: Sequence[Sheet], width: int | None, color: bool) -> str:
    out = io.StringIO()
    console = Console(
        file=out,
        width=width or UNBOUNDED,
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
    )
    for sheet in sheets:
        for part in _parts(sheet, console, color):
            console.print(part, crop=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).rstrip() + "\n"


def _parts(sheet: Sheet, console: Console, bold: bool) -> list[RenderableType]:
    whole = layout.beside(sheet.blocks)
    tables = [table for block in sheet.blocks for table in _fitting(block, console, bold)]
    if len(tables) > len(sheet.blocks) or _width(whole, console, bold) <= console.width:
        tables = _fitting(whole, console, bold)
    tables += [table for block in sheet.others for table in _fitting(block, console, bold)]
    parts: list[RenderableType] = [Text(sheet.title, style="bold")]
    for table in tables:
        parts += [table, Text("")]
    notes = list(sheet.notes)
    if not bold and any(cell.best for one in sheet.blocks for row in one.rows for cell in row):
        notes.insert(1, "* the best of its column.")
    parts += [Padding(Text(note, style="dim"), (0, 0, 0, 2)) for note in notes]
    if sheet.details:
        parts += [
            Text("\nDetails"),
            *(Padding(Text(line), (0, 0, 0, 2)) for line in sheet.details),
        ]
    return [*parts, Text("")]


def _fitting(block: layout.Block, console: Console, bold: bool) -> list[Table]:
    """The block as one table, or, where that is too wide, its columns in several.

    Each has the names again. A long name is folded, a number never, nor is it cut.
    """
    if _width(block, console, bold) <= console.width:
        return [_table(block, bold)]
    names = max(map(cell_len, (block.headers[0], *(row[0].text for row in block.rows))))
    columns = range(1, len(block.headers))
    widths = [_width(block.part([i]), console, bold, LEAST_NAME) - LEAST_NAME for i in columns]
    ways = [
        (room, _filled(widths, console.width - room))
        for room in range(min(names, LEAST_NAME), names + 1)
    ]
    # As few tables as can be, and in these as much room for the names as there is.
    room, parts = min(ways, key=lambda way: (len(way[1]), _excess(widths, console.width, way[0])))
    tables = []
    for part in parts:
        table = _table(block.part([i + 1 for i in part]), bold, room)
        # Wider than the terminal if even one column is: it breaks the lines, and nothing is lost.
        table.width = room + sum(widths[i] for i in part)
        tables.append(table)
    return tables


def _filled(widths: Sequence[int], room: int) -> list[list[int]]:
    """Which of the columns stand beside each other in so much room: one at least."""
    parts: list[list[int]] = [[0]]
    for i in range(1, len(widths)):
        if sum(widths[k] for k in parts[-1]) + widths[i] <= room:
            parts[-1].append(i)
        else:
            parts.append([i])
    return parts


def _excess(widths: Sequence[int], width: int, room: int) -> tuple[int, int]:
    """By how much the widest column does not fit; then, the more room for names the better."""
    return max(0, room + max(widths, default=0) - width), -room


def _width(block: layout.Block, console: Console, bold: bool, room: int | None = None) -> int:
    """The characters that the block needs in a line, with ``room`` of them for names."""
    unbounded = console.options.update(max_width=UNBOUNDED)
    return console.measure(_table(block, bold, room), options=unbounded).maximum


def _table(block: layout.Block, bold: bool, room: int | None = None) -> Table:
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
            table.add_column(Text(header), overflow="fold", vertical="bottom", width=room)
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
