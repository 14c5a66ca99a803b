"""What plots and sentences are made of: numbers of one row over its seeds, along the tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_cl.records.events import read_events
from lora_cl.records.metrics import Array
from lora_cl.report.aggregate import Row
from lora_cl.report.statistics import student_t


@dataclass(frozen=True)
class Band:
    """Means along an axis, and half the widths of their 95 % intervals; NaN where not known.

    ``half`` is None below two seeds.
    """

    mean: Array
    half: Array | None


def band(values: Array) -> Band:
    """``values`` (n, *shape), a row a seed, to a band of shape ``shape``."""
    n = len(values)
    mean = values.mean(axis=0)
    if n < 2:
        return Band(mean, None)
    return Band(mean, student_t(n - 1) * values.std(axis=0, ddof=1) / math.sqrt(n))


def matrices(row: Row) -> Array | None:
    """The accuracy matrices of the seeds, (n, T, T), NaN where not measured; None without any."""
    found = [run.matrix for run in row.runs if run.done and run.matrix is not None]
    return np.stack(found) if found else None


def seen_accuracy(matrix: Array) -> Array:
    """mean_{j<=i} R[i, j] for every i: (..., T, T) to (..., T)."""
    tasks = matrix.shape[-1]
    seen = np.tril(np.ones((tasks, tasks), dtype=bool))
    total: Array = np.where(seen, matrix, 0.0).sum(axis=-1) / seen.sum(axis=-1)
    return total


def forgetting_per_task(matrix: Array) -> Array:
    """max_{j<=i<T-1} R[i, j] - R[T-1, j] for j < T-1: (..., T, T) to (..., T-1).

    Its mean is the forgetting of Chaudhry et al. 2018; see ``records.metrics.forgetting``.
    """
    before = matrix[..., :-1, :-1]
    if before.shape[-1] == 0:
        return np.zeros((*matrix.shape[:-2], 0))
    learned = np.tril(np.ones(before.shape[-2:], dtype=bool))
    best: Array = np.where(learned, before, -np.inf).max(axis=-2)
    return best - matrix[..., -1, :-1]


@dataclass(frozen=True)
class Losses:
    """The mean training loss of every epoch of a run, in order, and the task of each."""

    tasks: tuple[int, ...]
    losses: tuple[float, ...]


def losses(folder: Path) -> Losses:
    """What the event log tells of the training loss; an epoch that was done again counts once."""
    found: dict[tuple[int, int, int], float] = {}
    for event, _ in read_events(folder):
        task, fit, epoch = (event.get(name) for name in ("task", "fit", "epoch"))
        loss = event.get("loss")
        if (
            event["event"] == "epoch"
            and isinstance(task, int)
            and isinstance(fit, int)
            and isinstance(epoch, int)
            and isinstance(loss, int | float)
            and math.isfinite(loss)
        ):
            found[task, fit, epoch] = float(loss)
    order = sorted(found)
    return Losses(tuple(task for task, _, _ in order), tuple(found[key] for key in order))


def mean_losses(runs: Sequence[Losses]) -> Array | None:
    """The mean over runs whose epochs are the same; None for others."""
    if not runs or any(one.tasks != runs[0].tasks for one in runs):
        return None
    return np.mean([one.losses for one in runs], axis=0) if runs[0].tasks else None


def pareto(points: Iterable[tuple[float, float]]) -> list[int]:
    """Which (cost, gain) no other beats: none costs at most as much and gains at least as much.

    Of equal points all are kept. By rising cost.
    """
    every = list(points)
    order = sorted(range(len(every)), key=lambda i: (every[i][0], -every[i][1]))
    front: list[int] = []
    best = -math.inf
    for i in order:
        if every[i][1] > best or (front and every[i] == every[front[-1]]):
            front.append(i)
            best = every[i][1]
    return front
