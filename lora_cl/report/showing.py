"""Runs as pictures in a terminal, at any width: who is best, what it costs, what is forgotten."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from lora_cl.report import layout
from lora_cl.report.aggregate import Comparison, Row
from lora_cl.report.confused import draw_confusion
from lora_cl.report.grids import FEW, GAP, MANY, bar, beside, grid, spark
from lora_cl.report.reading import Run
from lora_cl.report.series import seen_accuracy
from lora_cl.report.underway import UnderWay
from lora_cl.text import NOTHING, count, duration, one_line, percent, short_label, size

WIDTH, LEAST_WIDTH = 80, 40
"""Characters where there is no terminal; and what is used of a narrower one."""
MOST_GRIDS = 24
OVER_TIME = "over time"
COSTS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("stored_bytes", "stored", size),
    ("added_params_per_task", "added per task", count),
    ("train_seconds", "training time", duration),
)

Matrix = Sequence[Sequence[float | None]]


def show_comparisons(found: Sequence[Comparison], width: int | None, color: bool) -> str:
    """The comparisons as text, ending in a newline; ``color`` allows escape codes."""
    wide = max(LEAST_WIDTH, width or WIDTH)
    lines: list[Text] = []
    for comparison in found:
        lines += [Text(layout.title(comparison), style="bold"), Text()]
        rows = [row for row in comparison.rows if row.seeds]
        if len(rows) == 1 and rows[0].accuracy_matrix_mean:
            lines += _whole_matrix(rows[0].accuracy_matrix_mean, wide)
        elif rows:
            lines += _accuracies(rows, wide) + _costs(rows, wide) + _grids(rows, wide)
        notes = [Text(note, style="dim") for note in layout.notes(comparison)[1:]]
        lines += [*notes, Text()]
    return _printed(lines, wide, color)


def show_run(run: Run, state: UnderWay, width: int | None, color: bool) -> str:
    """One run as text: its matrix so far, each task along the way, what was taken for what at the
    end, and its costs."""
    wide = max(LEAST_WIDTH, width or WIDTH)
    name = " · ".join((run.experiment, run.label, f"seed {run.seed}"))
    told = run.status + (f": {run.reason}" if run.reason else "")
    lines = [Text(one_line(name), style="bold"), Text(one_line(told)), Text()]
    matrix: Matrix
    if run.matrix is not None:
        matrix = [[None if np.isnan(x) else float(x) for x in row] for row in run.matrix]
    else:
        matrix = [state.rows[task] for task in sorted(state.rows)]
    lines += _whole_matrix(matrix, wide) if matrix else [Text("no task is learned yet"), Text()]
    lines += draw_confusion(run, wide)
    costs = [
        f"{name}: {form(value)}"
        for key, name, form in COSTS
        if (value := run.values.get(key)) is not None
    ]
    return _printed([*lines, *map(Text, costs)], wide, color)


def _printed(lines: Iterable[Text], width: int, color: bool) -> str:
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=color,
        color_system="256" if color else None,
        legacy_windows=False,
    )
    for line in lines:
        console.print(line, crop=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).rstrip() + "\n"


def _accuracies(rows: Sequence[Row], width: int) -> list[Text]:
    """A bar for each row's average accuracy, and its accuracy over the tasks seen, task by task."""
    names = _names(rows, width)
    curves = [_curve(row) for row in rows]
    along = max(min(max(map(len, curves)), MANY), len(OVER_TIME))
    along = along if len(names[0]) + along + 8 + 2 * GAP + 10 <= width else 0
    room = min(50, width - len(names[0]) - 8 - GAP - (along + GAP if along else 0))
    head = f"{'':{len(names[0])}} {'average accuracy, %':{room + 7}}"
    lines = [Text(head + (f"{'':{GAP}}{OVER_TIME}" if along else ""), style="dim")]
    for row, name, curve in zip(rows, names, curves, strict=True):
        mean = row.measures["average_accuracy"].mean
        value = NOTHING if mean is None else percent(mean)
        line = Text(f"{name} ")
        line.append(bar(mean or 0.0, room), style="cyan")
        line.append(f" {value:>6}")
        line.append(f"{'':{GAP}}{curve[:along]}" if along else "")
        lines.append(line)
    return [*lines, Text()]


def _curve(row: Row) -> str:
    matrix = row.accuracy_matrix_mean
    if not matrix:
        return ""
    seen = seen_accuracy(np.array(matrix, dtype=np.float64))
    return spark([None if np.isnan(x) else float(x) for x in seen])


def _costs(rows: Sequence[Row], width: int) -> list[Text]:
    """A bar for each cost of each row; the longest is the most."""
    names = _names(rows, width)
    shown = [cost for cost in COSTS if any(_cost(row, cost[0]) is not None for row in rows)]
    if not shown:
        return []
    room = min(20, (width - len(names[0]) - 1) // len(shown) - 8 - GAP)
    heads = [f"{name:{room + 8 + GAP}}" for _, name, _ in shown]
    lines = [Text(f"{'':{len(names[0])}} {''.join(heads)}", style="dim")]
    most = {key: max((_cost(row, key) or 0.0) for row in rows) or 1.0 for key, _, _ in shown}
    for row, name in zip(rows, names, strict=True):
        line = Text(f"{name} ")
        for key, _, form in shown:
            value = _cost(row, key)
            line.append(bar((value or 0.0) / most[key], room), style="yellow")
            line.append(f"{NOTHING if value is None else form(value):>8}{'':{GAP}}")
        lines.append(line)
    return [*lines, Text()]


def _cost(row: Row, name: str) -> float | None:
    return row.measures[name].mean


def _names(rows: Sequence[Row], width: int) -> list[str]:
    """The labels, all as long as the longest; a third of the width at most."""
    limit = max(10, min(26, width // 3))
    short = [short_label(row.label, limit) for row in rows]
    longest = max(map(cell_len, short))
    return [name + " " * (longest - cell_len(name)) for name in short]


def _grids(rows: Sequence[Row], width: int) -> list[Text]:
    """The accuracy matrices, as many beside each other as there is room for."""
    drawn = [row for row in rows if len(row.accuracy_matrix_mean or []) > 1 and not row.all_at_once]
    if not drawn:
        return []
    blocks = [
        _titled(row.label, grid(row.accuracy_matrix_mean or [])) for row in drawn[:MOST_GRIDS]
    ]
    lines = [
        Text("Accuracy in %: a line after each task, a column for each task", style="dim"),
        Text(),
    ]
    lines += beside(blocks, width)
    if len(drawn) > MOST_GRIDS:
        lines += [
            Text(f"and {len(drawn) - MOST_GRIDS} more; --methods chooses", style="dim"),
            Text(),
        ]
    return lines


def _titled(label: str, lines: list[Text]) -> list[Text]:
    width = max(12, *(cell_len(line.plain) for line in lines))
    return [Text(short_label(label, width)), *lines]


def _whole_matrix(matrix: Matrix, width: int) -> list[Text]:
    """A matrix with its axes named, and each task along the way."""
    columns = max(map(len, matrix))
    wide = columns <= FEW and 10 + 6 * columns <= width
    cell = (6 if wide else 4) if columns <= FEW else 1
    numbers = [f"{j + 1:>{cell - 1}} " for j in range(columns)] if cell > 1 else []
    lines = [Text("after task   accuracy in % on task", style="dim")]
    lines += [Text(f"{'':10}{''.join(numbers)}", style="dim")] if numbers else []
    rows = grid(matrix, wide)
    for i, row in enumerate(rows):
        number = f"{i + 1:>8}  " if len(rows) == len(matrix) else f"{'':10}"
        lines.append(Text.assemble((number, "dim"), row))
    lines += [Text(), Text("each task over time, from when it was learned", style="dim")]
    for j in range(min(columns, MANY)):
        along = [row[j] if j < len(row) else None for row in matrix]
        known = [x for x in along[j:] if x is not None]
        if known:
            first, last = percent(known[0]), percent(known[-1])
            curve = spark(along[j:][-MANY:])
            lines.append(Text(f"{j + 1:>8}  {'':{min(j, MANY)}}{curve}  {first} to {last}"))
    if columns > MANY:
        lines.append(Text(f"and {columns - MANY} more tasks", style="dim"))
    return [*lines, Text()]
