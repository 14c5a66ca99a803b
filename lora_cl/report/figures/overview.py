"""Plots of a whole comparison: who is best, along the tasks, at what cost, and what is lost."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from lora_cl.report.aggregate import Comparison, Row
from lora_cl.report.figures.against import COSTS, swept, tradeoff
from lora_cl.report.figures.drawing import FAINT, PAGE, RULE, SERIES, Plot, new_figure
from lora_cl.report.figures.parts import (
    cell_grid,
    legend,
    percent_axis,
    room_for,
    row_names,
    task_axis,
)
from lora_cl.report.layout import competitors
from lora_cl.report.series import band, forgetting_per_task, matrices, seen_accuracy
from lora_cl.report.statistics import Summary
from lora_cl.report.sweeps import sweeps
from lora_cl.text import short_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = 60
"""Rows of a plot that has a line of its own for each."""

ACCURACY = "average_accuracy"
INTERVAL = "bars: 95 % interval of the mean"


def overview(comparison: Comparison) -> list[Plot]:
    """The plots that a comparison has something to show in."""
    rows = [row for row in comparison.rows if row.measures[ACCURACY].mean is not None]
    if not rows:
        return []
    rows.sort(key=lambda row: -(row.measures[ACCURACY].mean or 0.0))
    shown = rows[:MOST_ROWS]
    cut = f" The best {MOST_ROWS} of {len(rows)} rows." if len(rows) > MOST_ROWS else ""
    plots = [
        Plot(
            "ranking",
            "Average accuracy",
            f"Accuracy over all tasks after the last one; {INTERVAL}, dots: seeds.{cut}",
            partial(_ranking, shown),
        )
    ]
    if any(len(row.accuracy_matrix_mean or []) > 1 for row in rows):
        colored, grey = _told_apart(rows)
        others = f" In grey: the {len(grey)} others." if grey else ""
        plots.append(
            Plot(
                "over-time",
                "Accuracy over the tasks seen so far",
                "Mean accuracy on the tasks seen, after each task; shaded: 95 % interval of the "
                f"mean.{others}",
                partial(_over_time, colored, grey),
            )
        )
        plots.append(
            Plot(
                "forgetting",
                "Forgetting per task",
                "Points of accuracy lost since the best time before the last task; mean over "
                f"seeds.{cut}",
                partial(_forgetting, shown),
            )
        )
    able = {row.label for row, _ in competitors(comparison.rows, ACCURACY)}
    for cost in COSTS:
        if any(row.measures[cost.name].mean is not None for row in rows):
            plots.append(
                Plot(
                    cost.name.replace("_", "-"),
                    f"Accuracy against {cost.title}",
                    "Up and left is better. The line joins the rows that no other beats in both "
                    "(Pareto front); hollow: does not compete, see the notes.",
                    partial(tradeoff, rows, able, cost),
                )
            )
    routed = [row for row in shown if row.routing]
    if routed:
        plots.append(
            Plot(
                "routers",
                "What the router costs",
                f"Average accuracy with the true task id, and with the router; how often it finds "
                f"the task; {INTERVAL}.",
                partial(_routers, routed),
            )
        )
    for sweep in sweeps(comparison.rows):
        plots.append(
            Plot(
                f"sweep-{sweep.header}",
                f"Average accuracy over {sweep.header}",
                f"All else equal, but for what follows {sweep.header}; {INTERVAL}.",
                partial(swept, sweep),
            )
        )
    return plots


def _told_apart(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Those that get a color, and the others: as many as there are colors, the best first."""
    if len(rows) <= len(SERIES):
        return list(rows), []
    return [*rows[: len(SERIES) - 1], rows[-1]], list(rows[len(SERIES) - 1 : -1])


def _ranking(rows: Sequence[Row]) -> Figure:
    figure, axes = new_figure(0.1 + 0.17 * len(rows), room_for(rows), 0.36)
    for y, row in enumerate(rows):
        seeds = [100 * v for v in row.by_seed[ACCURACY].values() if v is not None]
        axes.plot(seeds, [y] * len(seeds), "o", color=SERIES[0], alpha=0.35, ms=2.5, mew=0)
        _interval(axes, row.measures[ACCURACY], y, SERIES[0])
    row_names(axes, rows)
    percent_axis(axes, "x")
    return figure


def _interval(axes: Axes, summary: Summary, y: float, color: str, marker: str = "o") -> None:
    """A mean with its interval on a line of its own, in %."""
    if summary.mean is not None:
        half = None if summary.ci95 is None else 100 * summary.ci95
        axes.errorbar(
            100 * summary.mean, y, xerr=half, fmt=marker, color=color, ms=4, elinewidth=1, mec=PAGE,
            mew=0.5,
        )  # fmt: skip


def _over_time(colored: Sequence[Row], grey: Sequence[Row]) -> Figure:
    figure, axes = new_figure(1.9, below=0.4 + 0.125 * -(-len(colored) // 2))
    tasks = 1
    for row in grey:
        found = matrices(row)
        if found is not None:
            line = 100 * band(seen_accuracy(found)).mean
            axes.plot(np.arange(1, len(line) + 1), line, color=FAINT, lw=0.6, alpha=0.7)
    for color, row in zip(SERIES, colored, strict=False):
        found = matrices(row)
        if found is None:
            continue
        along, tasks = band(seen_accuracy(found)), found.shape[-1]
        x = np.arange(1, len(along.mean) + 1)
        # A single point, such as that of joint training, has no line to be seen by.
        axes.plot(x, 100 * along.mean, "o-", ms=2.5, color=color, label=short_label(row.label))
        if along.half is not None:
            low, high = along.mean - along.half, along.mean + along.half
            axes.fill_between(x, 100 * low, 100 * high, color=color, alpha=0.15, lw=0)
    percent_axis(axes)
    task_axis(axes, tasks)
    legend(figure, 2)
    return figure


def _forgetting(rows: Sequence[Row]) -> Figure:
    kept, lines = [], []
    for row in rows:
        found = matrices(row)
        if found is not None and found.shape[-1] > 1 and not row.all_at_once:
            kept.append(row)
            lines.append(100 * forgetting_per_task(found).mean(axis=0))
    width = max((len(line) for line in lines), default=1)
    values = np.full((max(1, len(kept)), width), np.nan)
    for y, line in enumerate(lines):
        values[y, : len(line)] = line
    figure, axes = new_figure(0.17 * len(values), room_for(kept), 0.36)
    top = max(1.0, float(np.nanmax(values))) if np.isfinite(values).any() else 1.0
    cell_grid(axes, values, 0.0, top, "YlOrRd")
    row_names(axes, kept)
    axes.set_xlabel("task", labelpad=2)
    return figure


def _routers(rows: Sequence[Row]) -> Figure:
    figure, axes = new_figure(0.3 * len(rows), room_for(rows), 0.6)
    for y, row in enumerate(rows):
        assert row.routing is not None
        parts = (row.routing.oracle, row.measures[ACCURACY], row.routing.router_accuracy)
        means = [100 * part.mean for part in parts[:2] if part.mean is not None]
        axes.plot(means, [y - 0.12] * len(means), "-", color=RULE, lw=2, zorder=0)
        for part, color, marker, shift in zip(
            parts, (SERIES[2], SERIES[0], SERIES[1]), ("o", "o", "D"), (-0.12, -0.12, 0.2),
            strict=True,
        ):  # fmt: skip
            _interval(axes, part, y + shift, color, marker)
    named = (
        ("accuracy with the oracle", 2, "o"),
        ("with the router", 0, "o"),
        ("task found", 1, "D"),
    )
    handles = [
        axes.plot([], [], marker, color=SERIES[color], label=text)[0]
        for text, color, marker in named
    ]
    row_names(axes, rows)
    percent_axis(axes, "x")
    legend(figure, 3, handles)
    return figure
