"""Every accuracy that was measured, for programs: a line for each run, task learned and task."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from lora_cl.report.aggregate import Comparison, Row
from lora_cl.report.machine import TEXTS, csv_of
from lora_cl.report.reading import Run

FORMATS = ("csv", "json")
HEAD = (
    *(*TEXTS, "config_hash", "seed", "task_learned", "task_evaluated"),
    *("accuracy", "validation_accuracy", "untrained_accuracy"),
)


def long_text(comparisons: Sequence[Comparison], format: str) -> str:  # noqa: A002
    """The accuracy matrices of all finished runs as CSV or JSON, ``T * T`` lines a run.

    ``task_learned`` is the last task learned, ``task_evaluated`` the one measured, both from 0;
    ``untrained_accuracy`` is that of the network before any training on the task evaluated.
    Accuracies are fractions, null or empty where not measured.
    """
    lines = [
        line
        for one in comparisons
        for row in one.rows
        for run in row.runs
        if run.done
        for line in _lines(row, run)
    ]
    if format == "csv":
        return csv_of(HEAD, lines)
    return "[\n" + ",\n".join(json.dumps(line, allow_nan=False) for line in lines) + "\n]\n"


def _lines(row: Row, run: Run) -> Iterator[dict[str, Any]]:
    assert run.matrix is not None
    names = {name: getattr(row, name) for name in (*TEXTS, "config_hash")} | {"seed": run.seed}
    tasks = range(len(run.matrix))
    for learned in tasks:
        for evaluated in tasks:
            yield {
                **names,
                "task_learned": learned,
                "task_evaluated": evaluated,
                "accuracy": _known(run.matrix, learned, evaluated),
                "validation_accuracy": _known(run.validation, learned, evaluated),
                "untrained_accuracy": _known(run.untrained, evaluated),
            }


def _known(measured: Any, *place: int) -> float | None:
    """The entry at a place of an array, or None where it is NaN or there is no array."""
    value = None if measured is None else float(measured[place])
    return None if value is None or value != value else value
