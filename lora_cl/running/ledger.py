"""What has been measured so far in a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

Row = list[float | None]


@dataclass
class Ledger:
    """The numbers that the record will hold; part of every checkpoint.

    A matrix's row ends with the last task that was measured in it. ``last_seen`` holds of a task
    what it used when it was last evaluated, and how well it did; ``last_validated`` the same on
    samples held out. ``confusion`` holds of a task, from its last evaluation on test samples, how
    many of each of its classes (line) were answered by each output (column). ``curves`` holds of a
    task [step, train_seconds then, accuracy on samples held out] at points of its training.
    """

    accuracy: list[Row] = field(default_factory=list)
    untrained: Row | None = None
    routed: list[Row] = field(default_factory=list)
    router_accuracy: list[Row] = field(default_factory=list)
    validation: list[Row] = field(default_factory=list)
    learned_fingerprints: dict[int, str] = field(default_factory=dict)
    last_seen: dict[int, tuple[str, float]] = field(default_factory=dict)
    last_validated: dict[int, tuple[str, float | None]] = field(default_factory=dict)
    confusion: dict[int, list[list[int]]] = field(default_factory=dict)
    curves: dict[int, list[list[float]]] = field(default_factory=dict)
    trained_parameters: list[int] = field(default_factory=list)
    total_parameters: list[int] = field(default_factory=list)
    train_seconds: float = 0.0
    eval_seconds: float = 0.0

    MATRICES: ClassVar[tuple[str, ...]] = ("accuracy", "routed", "router_accuracy", "validation")

    def parts(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """For a checkpoint: the matrices as tensors, the rest as JSON."""
        rest = dict(vars(self))
        return {name: _to_tensor(rest.pop(name)) for name in self.MATRICES}, rest

    @classmethod
    def of(cls, matrices: dict[str, Tensor], rest: dict[str, Any]) -> Ledger:
        """From its parts; the keys of JSON are text."""
        ledger = cls(**rest)
        for name in cls.MATRICES:
            setattr(ledger, name, _to_rows(matrices[name]))
        ledger.learned_fingerprints = {int(k): v for k, v in ledger.learned_fingerprints.items()}
        ledger.last_seen = {int(k): (v[0], v[1]) for k, v in ledger.last_seen.items()}
        validated = ledger.last_validated.items()
        ledger.last_validated = {int(k): (v[0], v[1]) for k, v in validated}
        ledger.confusion = {int(k): v for k, v in ledger.confusion.items()}
        ledger.curves = {int(k): v for k, v in ledger.curves.items()}
        return ledger


def _to_tensor(rows: list[Row]) -> Tensor:
    """Shape (rows, longest row), float64, NaN where not measured."""
    matrix = torch.full((len(rows), max(map(len, rows), default=0)), math.nan, dtype=torch.float64)
    for filled, row in zip(matrix, rows, strict=True):
        known = [math.nan if value is None else value for value in row]
        filled[: len(row)] = torch.tensor(known, dtype=torch.float64)
    return matrix


def _to_rows(matrix: Tensor) -> list[Row]:
    return [[None if math.isnan(value) else value for value in row.tolist()] for row in matrix]
