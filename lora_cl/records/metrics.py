"""From an accuracy matrix to the numbers of the continual-learning literature.

R[i, j] is the accuracy on task j after learning task i, for T tasks counted from 0. A matrix is
given as rows of numbers with None, or as a float array with NaN, where nothing was measured.
A measure is None if one of the entries that its formula needs was not measured: joint training
fills only the last row, so it has an average accuracy and neither forgetting nor learning accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Matrix: TypeAlias = Sequence[Sequence[float | None]] | Array
Vector: TypeAlias = Sequence[float | None] | Array


def as_matrix(matrix: Matrix) -> Array:
    """The accuracy matrix as a (T, T) float array, NaN where not measured.

    Raises ValueError unless it is square with T >= 1.
    """
    array = np.asarray(matrix, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or array.size == 0:
        raise ValueError(f"an accuracy matrix is T x T with T >= 1, not of shape {array.shape}")
    return array


def average_accuracy(matrix: Matrix) -> float | None:
    """mean_j R[T-1, j]: the accuracy over all tasks after the last one.

    Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory", ACC in section 2.
    """
    return _mean(as_matrix(matrix)[-1])


def average_incremental_accuracy(matrix: Matrix) -> float | None:
    """mean_i mean_{j<=i} R[i, j]: the accuracy over the tasks seen, averaged along the way.

    Rebuffi et al. 2017, "iCaRL", section 4.
    """
    r = as_matrix(matrix)
    seen = np.tril(np.ones(r.shape, dtype=bool))
    return _mean(np.where(seen, r, 0.0).sum(axis=1) / seen.sum(axis=1))


def learning_accuracy(matrix: Matrix) -> float | None:
    """mean_j R[j, j]: how well each task is learned when it is its turn.

    Riemer et al. 2019, "Learning to Learn without Forgetting", LA in section 5.
    """
    return _mean(np.diagonal(as_matrix(matrix)))


def forgetting(matrix: Matrix) -> float | None:
    """mean_{j<T-1} (max_{j<=i<T-1} R[i, j] - R[T-1, j]); negative if old tasks got better.

    None for T = 1. Chaudhry et al. 2018, "Riemannian Walk", section "Forgetting and Intransigence":
    F_k at k = T.
    """
    r = as_matrix(matrix)
    return _mean(_best(r[:-1, :-1]) - r[-1, :-1])


def forgetting_first(matrix: Matrix) -> float | None:
    """mean_{j<T-1} (R[j, j] - R[T-1, j]): first minus last, the negative of backward transfer.

    None for T = 1. What Avalanche (Lomonaco et al. 2021) calls forgetting.
    """
    r = as_matrix(matrix)
    return _mean(np.diagonal(r)[:-1] - r[-1, :-1])


def forgetting_max(matrix: Matrix) -> float | None:
    """mean_{j<T-1} (max_{j<=i<=T-1} R[i, j] - R[T-1, j]): never negative.

    None for T = 1. What Mammoth (Boschini et al. 2022) and PILOT (Sun et al. 2023) call
    forgetting: the maximum includes the last row.
    """
    r = as_matrix(matrix)
    return _mean((_best(r) - r[-1])[:-1])


def backward_transfer(matrix: Matrix) -> float | None:
    """mean_{j<T-1} (R[T-1, j] - R[j, j]): what later tasks did to earlier ones.

    None for T = 1. Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory", BWT in section 2.
    """
    r = as_matrix(matrix)
    return _mean(r[-1, :-1] - np.diagonal(r)[:-1])


def forward_transfer(matrix: Matrix, untrained: Vector | None) -> float | None:
    """mean_{j>0} (R[j-1, j] - b_j): what earlier tasks give to one not yet learned.

    ``untrained`` (T,) holds b_j, the accuracy of the untrained network on task j. None for T = 1,
    without ``untrained``, and where the head of the next task is still untrained (its entries are
    None). Lopez-Paz & Ranzato 2017, FWT in section 2. Raises ValueError on another length.
    """
    r = as_matrix(matrix)
    if untrained is None:
        return None
    b = np.asarray(untrained, dtype=np.float64)
    if b.shape != r.shape[:1]:
        raise ValueError(f"{len(r)} untrained accuracies are needed, not shape {b.shape}")
    return _mean(np.diagonal(r, offset=1) - b[1:])


def intransigence(matrix: Matrix, joint_matrix: Matrix) -> float | None:
    """mean_j (R_joint[T-1, j] - R[j, j]): what learning in sequence costs against joint training.

    ``joint_matrix`` (T, T) is of a joint run of the same seed; only its last row is used: one model
    trained on all T tasks. After Chaudhry et al. 2018, section "Forgetting and Intransigence",
    whose I_j = a*_j - a_jj has for each task j a reference of its own, trained jointly on the tasks
    up to j alone. The reference here also knew the tasks after j, and in class-incremental runs had
    their classes to choose from; for j = T-1 both are the same. Raises ValueError if the numbers
    of tasks differ.
    """
    r, joint = _same_tasks(matrix, joint_matrix)
    return _mean(joint[-1] - np.diagonal(r))


def last_task_intransigence(matrix: Matrix, joint_matrix: Matrix) -> float | None:
    """R_joint[T-1, T-1] - R[T-1, T-1]: as ``intransigence``, of the last task alone.

    Chaudhry et al. 2018, I_k = a*_k - a_kk at k = T, where a*_k is of a model trained on the tasks
    up to k: for the last task that is the joint run. Raises ValueError as ``intransigence``.
    """
    r, joint = _same_tasks(matrix, joint_matrix)
    return _mean(joint[-1:, -1] - r[-1:, -1])


def _same_tasks(matrix: Matrix, joint_matrix: Matrix) -> tuple[Array, Array]:
    r, joint = as_matrix(matrix), as_matrix(joint_matrix)
    if r.shape != joint.shape:
        raise ValueError(f"the matrices have {len(r)} and {len(joint)} tasks")
    return r, joint


def reached(curve: Sequence[Sequence[float]], share: float = 0.95) -> Sequence[float] | None:
    """The first point of a learning curve, of rows that end in an accuracy, whose accuracy is at
    least ``share`` of the last one's; None for an empty curve."""
    wanted = share * curve[-1][-1] if curve else 0.0
    return next((point for point in curve if point[-1] >= wanted), None)


def measures(matrix: Matrix, untrained: Vector | None = None) -> dict[str, float | None]:
    """The measures that are reported for every run, by name, in the unit of the matrix."""
    r = as_matrix(matrix)
    return {
        "average_accuracy": average_accuracy(r),
        "average_incremental_accuracy": average_incremental_accuracy(r),
        "learning_accuracy": learning_accuracy(r),
        "forgetting": forgetting(r),
        "backward_transfer": backward_transfer(r),
        "forward_transfer": forward_transfer(r, untrained),
    }


def rounded(measure: float) -> float:
    """For comparing: equal accuracies, added up in another order, differ in the last digit."""
    return round(measure, 12)


def _best(rows: Array) -> Array:
    """max_{i>=j} rows[i, j] for every j; NaN where one of these entries is not measured."""
    if rows.size == 0:
        return rows.reshape(0)
    learned = np.tril(np.ones(rows.shape, dtype=bool))
    best: Array = np.where(learned, rows, -np.inf).max(axis=0)
    return best


def _mean(values: Array) -> float | None:
    if values.size == 0 or np.isnan(values).any():
        return None
    return float(values.mean())
