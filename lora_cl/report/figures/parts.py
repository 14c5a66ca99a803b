"""Parts of plots: names of rows, cells with numbers, labels beside points."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_cl.records.metrics import Array
from lora_cl.report.aggregate import Row
from lora_cl.report.figures.drawing import INK, PAGE
from lora_cl.text import short_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

MOST_TICKS = 5
LABEL_SIZE, MOST_LABELS = 6.5, 25
"""Of labels beside points: points, and how many are tried."""
MOST_NUMBERED = 10
"""Columns whose cells have room for a number."""


def room_for(rows: Sequence[Row]) -> float:
    """Inches that the longest name needs."""
    return 0.15 + 0.066 * max(len(short_label(row.label)) for row in rows)


def row_names(axes: Axes, rows: Sequence[Row]) -> None:
    """A line for every row, the first on top."""
    axes.set_yticks(range(len(rows)), [short_label(row.label) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def percent_axis(axes: Axes, name: str = "y") -> None:
    """An axis of accuracies: from 0 to 100 at most, however wide an interval is."""
    low, high = axes.get_ylim() if name == "y" else axes.get_xlim()
    limits = (max(-1.0, low), min(101.5, high))
    if name == "y":
        axes.set_ylim(*limits)
        axes.set_ylabel("%", labelpad=2)
    else:
        axes.set_xlim(*limits)
        axes.set_xlabel("%", labelpad=2)
    axes.grid(axis=name)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def task_axis(axes: Axes, tasks: int) -> None:
    """The x axis counts the tasks from 1."""
    step = 1 if tasks <= 10 else max(1, tasks // 50) * 5
    axes.set_xticks(range(1 if step == 1 else step, tasks + 1, step))
    axes.set_xlabel("tasks learned", labelpad=2)
    axes.set_xlim(0.7, tasks + 0.3)


def log_axis(axes: Axes, name: str, values: Array, form: Callable[[float], str]) -> None:
    """A logarithmic axis around ``values``, with room for 0 where one of them is 0."""
    positive = values[values > 0]
    if len(positive) == 0:
        return
    low, high = float(positive.min()), float(positive.max())
    zero = bool((values <= 0).any())
    ticks = _round_numbers(low, high)
    if zero:
        ticks = [0.0, *(tick for tick in ticks if tick >= low)]
    axis = axes.xaxis if name == "x" else axes.yaxis
    scale = axes.set_xscale if name == "x" else axes.set_yscale
    if zero:
        scale("symlog", linthresh=low, linscale=0.5)
    else:
        scale("log")
    axis.set_ticks(ticks, [re.sub(r"\.0+(?!\d)", "", form(tick)) for tick in ticks])
    axis.set_ticks([], minor=True)


def _round_numbers(low: float, high: float) -> list[float]:
    """Some of 1, 2, 5, 10, 20, ... around ``low`` to ``high``, a handful."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = [10.0**k for k in range(first, last + 1)]
    if len(decades) > 3:
        return decades[:: -(-len(decades) // 7)]
    every = [digit * decade for decade in decades for digit in (1, 2, 5)]
    near = [number for number in every if low / 1.6 <= number <= high * 1.6]
    if len(near) > MOST_TICKS:
        near = near[::2]
    return near if len(near) > 1 else [low, high] if low < high else [low]


def cell_grid(
    axes: Axes, values: Array, low: float, high: float, colors: str, sparse: bool = False
) -> None:
    """A cell of color for each of ``values`` (rows, columns), with its number where it has room.

    Nothing stands where it is NaN. The columns are counted from 1. ``sparse``: most are 0, which is
    not written; the others are whole numbers.
    """
    import matplotlib

    rows, columns = values.shape
    map_ = matplotlib.colormaps[colors]
    form = "{:.0f}".format if sparse else "{:.1f}".format
    masked = np.ma.masked_invalid(values)
    edges: dict[str, Any] = {"edgecolors": PAGE, "linewidth": 0.8}
    if sparse:
        edges = {"edgecolors": "face", "linewidth": 0.1}
    axes.pcolormesh(
        np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5, masked,
        cmap=map_, vmin=low, vmax=high, **edges,
    )  # fmt: skip
    if columns <= MOST_NUMBERED:
        for y, x in np.argwhere(values >= 0.5 if sparse else np.isfinite(values)):
            value = float(values[y, x])
            share = min(1.0, max(0.0, (value - low) / (high - low)))
            red, green, blue, _ = map_(share)
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            # Not INK and PAGE: the cell has its color on every page.
            axes.text(
                x, y, form(value).replace("-0.0", "0.0"), ha="center", va="center",
                fontsize=6.5, color="#ffffff" if dark else "#000000",
            )  # fmt: skip
    ticks = range(columns) if columns <= MOST_NUMBERED else range(4, columns, 5)
    axes.set_xticks(list(ticks), [str(x + 1) for x in ticks])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def legend(figure: Figure, columns: int, handles: Sequence[Any] | None = None) -> None:
    """Below the axes, in the margin that was left for it."""
    given = {} if handles is None else {"handles": handles}
    figure.legend(
        loc="lower left", bbox_to_anchor=(0.0, -0.01), ncols=columns, fontsize=6.5,
        handlelength=1.3, columnspacing=1.2, borderaxespad=0.2, labelspacing=0.3, **given,
    )  # fmt: skip


_SIDES = (
    (4, -4, "left", "top"),
    (-4, 4, "right", "bottom"),
    (0, 5, "center", "bottom"),
    (0, -5, "center", "top"),
    (4, 4, "left", "bottom"),
    (5, 0, "left", "center"),
    (-5, 0, "right", "center"),
    (-4, -4, "right", "top"),
    (12, 9, "left", "bottom"),
    (12, -9, "left", "top"),
    (-12, 9, "right", "bottom"),
    (-12, -9, "right", "top"),
)
"""Where a label can stand beside its point, the best first: first below the steps of a Pareto
front, then above. Shift in points, and how it is aligned."""


_BEFORE = {"left": 0.0, "bottom": 0.0, "center": 0.5, "right": 1.0, "top": 1.0}
"""The share of a text that lies left of or below where it is put, by its alignment."""


def label_points(
    figure: Figure, axes: Axes, x: Array, y: Array, labels: Sequence[str], needed: int
) -> None:
    """Each label where it covers neither a point nor another label; without room, none.

    The first ``needed`` stand in any case. How large a text is, is estimated: to ask matplotlib
    takes as long as all the rest.
    """
    from matplotlib.transforms import Bbox

    inside = axes.get_window_extent()
    points = axes.transData.transform(np.column_stack([x, y]))
    unit = figure.dpi / 72
    taken = [Bbox.from_extents(px - 2, py - 2, px + 2, py + 2) for px, py in points]
    for i, label in enumerate(labels[: max(needed, MOST_LABELS)]):
        text = short_label(label)
        width, height = 0.6 * LABEL_SIZE * len(text) * unit, 1.1 * LABEL_SIZE * unit
        for dx, dy, across, up in _SIDES if i < MOST_LABELS else ():
            left = (
                points[i][0]
                + dx * unit
                - {"left": 0.0, "center": 0.5, "right": 1.0}[across] * width
            )
            low = points[i][1] + dy * unit - {"bottom": 0.0, "center": 0.5, "top": 1.0}[up] * height
            box = Bbox.from_extents(left, low, left + width, low + height)
            if _lies_in(box, inside) and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
        else:
            if i >= needed:
                continue
            dx, dy, across, up = _SIDES[0]
        axes.annotate(
            text, (x[i], y[i]), (dx, dy), textcoords="offset points", ha=across, va=up,
            fontsize=LABEL_SIZE, color=INK,
        )  # fmt: skip


def _lies_in(box: Bbox, whole: Bbox) -> bool:
    return bool(
        box.x0 >= whole.x0 and box.x1 <= whole.x1 and box.y0 >= whole.y0 and box.y1 <= whole.y1
    )
