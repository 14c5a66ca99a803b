"""Plots of accuracy against something else: what a row costs, and an option that was swept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lora_cl.report.aggregate import Row
from lora_cl.report.figures.drawing import FAINT, PAGE, SERIES, new_figure
from lora_cl.report.figures.parts import label_points, legend, log_axis, percent_axis
from lora_cl.report.series import pareto
from lora_cl.report.sweeps import Sweep
from lora_cl.text import count, short_label, size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACCURACY = "average_accuracy"


@dataclass(frozen=True)
class Cost:
    name: str
    title: str
    form: Callable[[float], str]


COSTS = (
    Cost("stored_bytes", "bytes stored", size),
    Cost("added_params_per_task", "parameters added per task", count),
)


def tradeoff(rows: Sequence[Row], able: set[str], cost: Cost) -> Figure:
    known = [row for row in rows if row.measures[cost.name].mean is not None]
    x = np.array([row.measures[cost.name].mean for row in known], dtype=np.float64)
    y = np.array([100 * (row.measures[ACCURACY].mean or 0.0) for row in known])
    able_at = [i for i, row in enumerate(known) if row.label in able]
    front = [able_at[i] for i in pareto([(x[i], y[i]) for i in able_at])]
    figure, axes = new_figure(2.2)
    log_axis(axes, "x", x, cost.form)
    axes.plot(x[front], y[front], "-", color=SERIES[0], lw=1, drawstyle="steps-post", zorder=1)
    for i, row in enumerate(known):
        hollow = row.label not in able
        color = SERIES[0] if i in front else FAINT
        axes.plot(x[i], y[i], "o", ms=4.5, color=color, mfc=PAGE if hollow else color, zorder=2)
    axes.margins(0.12)
    percent_axis(axes)
    axes.set_xlabel(cost.title, labelpad=2)
    axes.grid(axis="x")
    order = [*front, *(i for i in range(len(known)) if i not in front)]
    label_points(figure, axes, x[order], y[order], [known[i].label for i in order], len(front))
    return figure


def swept(sweep: Sweep) -> Figure:
    figure, axes = new_figure(1.9, below=0.4 + 0.125 * len(sweep.curves))
    values = [value for curve in sweep.curves for value in curve.values]
    for i, curve in enumerate(sweep.curves):
        found = [row.measures[ACCURACY] for row in curve.rows]
        y = [100 * (summary.mean or 0.0) for summary in found]
        halves = [100 * (summary.ci95 or 0.0) for summary in found]
        axes.errorbar(
            curve.values, y, yerr=halves, fmt="o-", ms=3.5, elinewidth=0.9,
            color=SERIES[i % len(SERIES)], label=short_label(curve.name, 40),
        )  # fmt: skip
    ticks = sorted(set(values))
    if ticks[0] > 0 and ticks[-1] >= 8 * ticks[0]:
        log_axis(axes, "x", np.array(ticks), lambda value: f"{value:g}")
    if len(ticks) <= 8:
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    percent_axis(axes)
    axes.set_xlabel(sweep.header, labelpad=2)
    legend(figure, 1)
    return figure
