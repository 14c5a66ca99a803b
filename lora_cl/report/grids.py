"""Pictures in a terminal: bars, small curves, and matrices as grids of color.

Each is a rich Text that says the same without color.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

HEIGHTS = "▁▂▃▄▅▆▇█"
SHARES = " ▏▎▍▌▋▊▉"
FEW, MANY = 10, 40
"""Up to so many tasks a cell has its number; of more than so many, some are left out."""
GAP = 3
"""Characters between blocks."""
SHADES = (
    ("#440154", "white"), ("#472d7b", "white"), ("#3b528b", "white"), ("#2c728e", "white"),
    ("#21918c", "white"), ("#28ae80", "black"), ("#5ec962", "black"), ("#addc30", "black"),
    ("#fde725", "black"),
)  # fmt: skip
"""Of viridis, from 0 to 1; and what can be read on each."""

Line = Sequence[float | None]


def bar(share: float, width: int) -> str:
    """A bar of ``share`` in [0, 1] of ``width`` characters, padded to it, to an eighth of one."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (SHARES[rest] if rest else "")).ljust(width)


def spark(values: Line) -> str:
    """A character for each value in [0, 1]: its height; a space where there is none."""
    return "".join(" " if v is None else _height(v) for v in values)


def grid(matrix: Sequence[Line], wide: bool = False) -> list[Text]:
    """A line of colored cells for each row of values in [0, 1]; in %, where cells have numbers.

    ``wide`` cells show a decimal. Rows may be shorter than the first, or longer.
    """
    columns = max(map(len, matrix), default=0)
    rows, shown = _some(len(matrix)), _some(columns)
    lines = []
    for i in rows:
        line = Text()
        for j in shown:
            value = matrix[i][j] if j < len(matrix[i]) else None
            line.append_text(_cell(value, columns <= FEW, wide))
        lines.append(line)
    return lines


def beside(blocks: Sequence[Sequence[Text]], width: int) -> list[Text]:
    """Blocks of lines, as many beside each other as there is room for; a blank line below each."""
    lines = []
    block_width = max((cell_len(line.plain) for block in blocks for line in block), default=0)
    columns = max(1, (width + GAP) // (block_width + GAP))
    for start in range(0, len(blocks), columns):
        group = blocks[start : start + columns]
        for i in range(max(map(len, group))):
            line = Text()
            for block in group:
                part = block[i].copy() if i < len(block) else Text()
                part.append(" " * (block_width + GAP - cell_len(part.plain)))
                line.append_text(part)
            lines.append(line)
        lines.append(Text())
    return lines


def _cell(value: float | None, numbered: bool, wide: bool) -> Text:
    width = (6 if wide else 4) if numbered else 1
    if value is None:
        return Text(" " * width)
    if not numbered:
        return Text(_height(value), style=SHADES[_step(value)][0])
    color, ink = SHADES[_step(value)]
    text = f"{100 * value:.1f} " if wide else f"{100 * value:.0f} "
    return Text(text.rjust(width), style=f"{ink} on {color}")


def _height(value: float) -> str:
    return HEIGHTS[min(len(HEIGHTS) - 1, int(min(1.0, max(0.0, value)) * len(HEIGHTS)))]


def _step(value: float) -> int:
    return round(min(1.0, max(0.0, value)) * (len(SHADES) - 1))


def _some(number: int) -> list[int]:
    """All of so many, or, of too many, evenly some: the first and the last among them."""
    if number <= MANY:
        return list(range(number))
    return [round(k * (number - 1) / (MANY - 1)) for k in range(MANY)]
