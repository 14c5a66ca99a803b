"""What a run took for what, as shares of each class; and drawn in a terminal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from rich.text import Text

from lora_cl.records.confusion import Counts
from lora_cl.records.metrics import Array
from lora_cl.report.aggregate import Row
from lora_cl.report.grids import FEW, beside, grid
from lora_cl.report.reading import Run
from lora_cl.text import one_line

MOST_CLASSES = 20
"""Of more classes to choose from, those of a task are taken together."""
MOST_TASKS = 24
ONLY = 0.99
"""From this share of all answers on, it is said that nothing else is answered."""
ONLY_LAST = "only the last task's classes are predicted"


@dataclass(frozen=True)
class Confusion:
    """Which share of the samples of a line was answered as each column, (n, n), in the order of
    learning; NaN in lines without samples. ``sizes`` says how many lines each task has: a line is a
    class or, ``by_task``, where there are very many, a task."""

    shares: Array
    sizes: tuple[int, ...]
    by_task: bool


def confusion_of(run: Run) -> Confusion | None:
    """That of a class-incremental run; None of others, which choose among a task's own classes."""
    if run.scenario != "class" or len(run.confusion) != 1:
        return None
    (counts,) = run.confusion
    sizes = tuple(map(len, run.tasks))
    if len(counts) <= MOST_CLASSES:
        return Confusion(_shares(counts), sizes, by_task=False)
    starts = [0, *accumulate(sizes)][:-1]
    of_tasks = np.add.reduceat(np.add.reduceat(counts, starts, axis=0), starts, axis=1)
    return Confusion(_shares(of_tasks), (1,) * len(sizes), by_task=True)


def mean_confusion(row: Row) -> Confusion | None:
    """The mean over the seeds of a class-incremental row; None unless all have it alike."""
    found = [confusion_of(run) for run in row.runs if run.done]
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found) or any(one.sizes != known[0].sizes for one in known):
        return None
    return replace(known[0], shares=np.mean([one.shares for one in known], axis=0))


def last_share(run: Run) -> float | None:
    """Which share of a class-incremental run's answers to test samples of all tasks are classes of
    the last task; None where that was not measured, or there is one task."""
    if run.scenario != "class" or len(run.confusion) != 1 or len(run.tasks) < 2:
        return None
    (counts,) = run.confusion
    return float(counts[:, -len(run.tasks[-1]) :].sum() / counts.sum())


def only_last(row: Row) -> bool | None:
    """Whether all seeds of a row answer with nothing but classes of the last task; None where that
    is not on record."""
    shares = [last_share(run) for run in row.runs if run.done]
    known = [share for share in shares if share is not None]
    return min(known) >= ONLY if known and len(known) == len(shares) else None


def draw_confusion(run: Run, width: int) -> list[Text]:
    """What the run took for what after its last task; empty where that is not on record."""
    if not run.confusion:
        return []
    found = confusion_of(run)
    if found is None:
        return _of_tasks(run, width)
    said = [Text(ONLY_LAST)] if (last_share(run) or 0.0) >= ONLY else []
    return [*_together(run, found), *said, Text()]


def _together(run: Run, found: Confusion) -> list[Text]:
    what = "a task's samples" if found.by_task else "a class"
    lines = [Text(f"taken for: % of {what} (line) answered as each (column)", style="dim")]
    rows = _grid(found.shares)
    names = [name for task in run.tasks for name in task]
    if len(names) == len(rows) <= FEW:
        heads = "".join(f"{one_line(name, 3):>3} " for name in names)
        lines.append(Text(f"{'':20}{heads}", style="dim"))
    of_task = [task + 1 for task, size in enumerate(found.sizes) for _ in range(size)]
    for i, row in enumerate(rows):
        new = i == 0 or of_task[i] != of_task[i - 1]
        label = f"{f'task {of_task[i]}' if new else '':>8}  "
        if len(rows) < len(found.shares):
            label = f"{'':10}"  # Some tasks are left out.
        elif not found.by_task:
            label += f"{one_line(names[i], 9):<10}"
        lines.append(Text.assemble((label, "dim"), row))
    return lines


def _of_tasks(run: Run, width: int) -> list[Text]:
    """A block for each task."""
    lines = [Text("taken for: % of a class (line) answered as each of its task (column)", "dim")]
    drawn = [
        [Text(f"task {task}"), *_grid(_shares(counts))]
        for task, counts in enumerate(run.confusion[:MOST_TASKS], start=1)
        if len(counts) <= MOST_CLASSES
    ]
    left = len(run.confusion) - len(drawn)
    more = [Text(f"and {left} more, in result.json", style="dim")] if left else []
    return [*lines, *beside(drawn, width), *more, Text()]


def _grid(shares: Array) -> list[Text]:
    return grid([[None if np.isnan(x) else float(x) for x in line] for line in shares])


def _shares(counts: Counts) -> Array:
    """Each line divided by its sum; NaN where that is 0."""
    totals = counts.sum(axis=1, keepdims=True)
    shares: Array = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    return shares
