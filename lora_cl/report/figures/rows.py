"""Plots of one row: its accuracy matrix, each task along the way, and how it was learned."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from lora_cl.records.metrics import Array
from lora_cl.report.aggregate import Row
from lora_cl.report.confused import Confusion, mean_confusion
from lora_cl.report.figures.drawing import FAINT, RULE, SERIES, Plot, new_figure
from lora_cl.report.figures.parts import MOST_NUMBERED, cell_grid, log_axis, percent_axis, task_axis
from lora_cl.report.series import Losses, band, losses, matrices, mean_losses
from lora_cl.text import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEIGHT = 1.7


def row_plots(row: Row) -> list[Plot]:
    """The plots that the row has something to show in."""
    found = matrices(row)
    if found is None:
        return []
    label = one_line(row.label)
    plots = []
    if found.shape[-1] > 1 and not row.all_at_once:
        plots = [
            Plot(
                "matrix",
                "Accuracy matrix",
                "Accuracy in % on every task (column) after learning each (line); mean over seeds.",
                partial(_matrix, found),
                label,
            ),
            Plot(
                "tasks",
                "Each task over time",
                "Accuracy on each task from when it was learned on; the first task is the darkest."
                " Shaded: 95 % interval of the mean over seeds.",
                partial(_tasks, found),
                label,
            ),
        ]
    answered = mean_confusion(row)
    if answered is not None and len(answered.shares) > 1:
        what = "Of each task's samples" if answered.by_task else "Of each class"
        plots.append(
            Plot(
                "confusion",
                "What is taken for what",
                f"{what} (line), the share in % that was answered as each (column), after the last "
                "task; in the order of learning, lines between tasks; mean over seeds.",
                partial(_confusion, answered),
                label,
            )
        )
    logged = [one for run in row.runs if run.done and (one := losses(run.folder)).losses]
    if logged:
        plots.append(
            Plot(
                "loss",
                "Training loss",
                "Mean loss of each epoch; thin: the seeds; a vertical line where a task begins.",
                partial(_loss, logged),
                label,
            )
        )
    return plots


def _matrix(found: Array) -> Figure:
    figure, axes = new_figure(HEIGHT)
    mean = 100 * found.mean(axis=0)
    tasks = len(mean)
    cell_grid(axes, mean, 0.0, 100.0, "viridis")
    ticks = range(tasks) if tasks <= 10 else range(4, tasks, 5)
    axes.set_yticks(list(ticks), [str(y + 1) for y in ticks])
    axes.set_ylim(tasks - 0.5, -0.5)
    axes.set_xlabel("accuracy on task", labelpad=2)
    axes.set_ylabel("after task", labelpad=2)
    return figure


def _confusion(answered: Confusion) -> Figure:
    figure, axes = new_figure(HEIGHT)
    size = len(answered.shares)
    cell_grid(axes, 100 * answered.shares, 0.0, 100.0, "viridis", sparse=True)
    ticks = range(size) if size <= MOST_NUMBERED else range(4, size, 5)
    axes.set_yticks(list(ticks), [str(y + 1) for y in ticks])
    axes.set_ylim(size - 0.5, -0.5)
    for end in accumulate(answered.sizes[:-1]):
        axes.axhline(end - 0.5, color=FAINT, lw=0.8)
        axes.axvline(end - 0.5, color=FAINT, lw=0.8)
    thing = "task" if answered.by_task else "class"
    axes.set_xlabel(f"answered {thing}", labelpad=2)
    axes.set_ylabel(f"true {thing}", labelpad=2)
    return figure


def _tasks(found: Array) -> Figure:
    import matplotlib

    figure, axes = new_figure(HEIGHT)
    tasks = found.shape[-1]
    colors = matplotlib.colormaps["viridis"](np.linspace(0.25, 0.85, tasks))
    along = band(found)
    for j in range(tasks):
        x = np.arange(j, tasks) + 1
        mean = 100 * along.mean[j:, j]
        axes.plot(x, mean, "o-", ms=2.5, lw=1, color=colors[j])
        if along.half is not None:
            half = 100 * along.half[j:, j]
            axes.fill_between(x, mean - half, mean + half, color=colors[j], alpha=0.15, lw=0)
    percent_axis(axes)
    task_axis(axes, tasks)
    return figure


def _loss(logged: Sequence[Losses]) -> Figure:
    figure, axes = new_figure(HEIGHT, left=0.62)
    for one in logged:
        axes.plot(np.arange(1, len(one.losses) + 1), one.losses, color=FAINT, lw=0.5)
    mean = mean_losses(logged)
    if mean is not None:
        axes.plot(np.arange(1, len(mean) + 1), mean, color=SERIES[0], lw=1.2)
    tasks = logged[0].tasks
    for i in range(1, len(tasks)):
        if tasks[i] != tasks[i - 1]:
            axes.axvline(i + 0.5, color=RULE, lw=0.8, zorder=0)
    values = np.concatenate([one.losses for one in logged])
    if values.min() > 0:
        log_axis(axes, "y", values, lambda value: f"{value:.2g}")
    axes.set_xlabel("epoch, over all tasks", labelpad=2)
    axes.set_ylabel("loss", labelpad=2)
    return figure
