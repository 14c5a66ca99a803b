"""What the last evaluation of a run took for what, as its record says; checked by its accuracies.

Classes are in the order of learning. A matrix has a line for each true class and a column for each
that was answered, and holds numbers of test samples: of a class-incremental run there is one, over
the classes of all tasks; of others one for each task, over its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Counts: TypeAlias = NDArray[np.int64]

NAME = "confusion_matrices"
MOST_CELLS = 65_536
"""Of all matrices of a run together; those of a larger one, such as of more than 256 classes to
choose from, are not kept."""


def is_kept(classes: Sequence[int], together: bool) -> bool:
    """Whether the matrices of tasks of so many ``classes``, which may be answered ``together``, are
    small enough to be kept."""
    cells = sum(classes) ** 2 if together else sum(k * k for k in classes)
    return cells <= MOST_CELLS


def confusion(result: Mapping[str, Any]) -> list[Counts] | None:
    """The matrices of a run that is done, as its record holds them; None where it has none.

    Raises ValueError for what is malformed, or does not give the accuracies of its last row.
    """
    value = result.get(NAME)
    if value is None:
        return None
    classes = task_classes(result)
    together = result.get("scenario") == "class"
    sizes = [sum(classes)] if together else classes
    if not isinstance(value, list) or len(value) != len(sizes) or not is_kept(classes, together):
        raise ValueError(f"{NAME} does not hold {len(sizes)} matrices")
    found = [_counts(rows, size) for rows, size in zip(value, sizes, strict=True)]
    for task, (own, accuracy) in enumerate(zip(_right(found, classes), _last(result), strict=True)):
        right, samples = own
        if not samples or right / samples != accuracy:
            raise ValueError(
                f"{NAME} has {right} of {samples} samples of task {task} right, "
                f"and accuracy_matrix {accuracy!r}"
            )
    return found


def task_classes(result: Mapping[str, Any]) -> list[int]:
    """How many classes each task has. Raises ValueError."""
    tasks = result.get("tasks")
    if not isinstance(tasks, list) or len(tasks) != result.get("n_tasks"):
        raise ValueError("tasks are not named")
    names = [task.get("classes") if isinstance(task, dict) else None for task in tasks]
    if not all(isinstance(one, list) and one for one in names):
        raise ValueError("classes are not named")
    return [len(one) for one in names if isinstance(one, list)]


def _right(matrices: Sequence[Counts], classes: Sequence[int]) -> list[tuple[int, int]]:
    """Of each task, how many samples were answered right, and how many there are."""
    if len(matrices) == len(classes):
        return [(int(np.trace(one)), int(one.sum())) for one in matrices]
    (whole,) = matrices
    right, samples = whole.diagonal(), whole.sum(axis=1)
    parts = [slice(end - k, end) for k, end in zip(classes, accumulate(classes), strict=True)]
    return [(int(right[part].sum()), int(samples[part].sum())) for part in parts]


def _counts(rows: Any, size: int) -> Counts:
    if not isinstance(rows, list) or len(rows) != size:
        raise ValueError(f"{NAME} does not have {size} rows")
    for row in rows:
        if not isinstance(row, list) or len(row) != size or set(map(type, row)) != {int}:
            raise ValueError(f"{NAME} does not have {size} whole numbers in every row")
    counts = np.array(rows, dtype=np.int64)
    if (counts < 0).any():
        raise ValueError(f"{NAME} holds numbers below 0")
    return counts


def _last(result: Mapping[str, Any]) -> list[Any]:
    matrix = result.get("accuracy_matrix")
    if not isinstance(matrix, list) or not matrix or not isinstance(matrix[-1], list):
        raise ValueError("accuracy_matrix has no last row")
    if len(matrix[-1]) != result.get("n_tasks"):
        raise ValueError("accuracy_matrix does not have n_tasks numbers in its last row")
    return matrix[-1]
