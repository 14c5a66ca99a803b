"""Rows for programs: JSON and CSV, raw numbers, accuracies as fractions."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from lora_cl.report.aggregate import MEASURES, Experiment, Row
from lora_cl.text import one_line

TEXTS = ("experiment", "label", "method", "scenario", "benchmark")


def json_text(experiments: Iterable[Experiment], details: bool = False) -> str:
    """An array with one object per row, one row a line; null where nothing was measured."""
    rows = [_object(row, details) for experiment in experiments for row in experiment.rows]
    return "[\n" + ",\n".join(json.dumps(row, allow_nan=False) for row in rows) + "\n]\n"


def csv_text(experiments: Iterable[Experiment], details: bool = False) -> str:
    """One line per row; an empty cell where nothing was measured.

    A text that a spreadsheet would take for a formula gets a leading apostrophe.
    """
    statistics = [f"{name}_{part}" for name in MEASURES for part in ("mean", "std", "ci95", "n")]
    head = [*TEXTS, "config_hash", "n_seeds", "n_failed", "n_unfinished", "n_unreadable"]
    head += ["n_missing", "needs_task_id", "isolated", *statistics]
    routing = [
        f"{n}_{p}" for n in ("oracle", "router_accuracy") for p in ("mean", "std", "ci95", "n")
    ]
    head += ["router", *routing, "problems"] + (["details"] if details else [])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for experiment in experiments:
        for row in experiment.rows:
            writer.writerow(_cells(row, details))
    return out.getvalue()


def _object(row: Row, details: bool) -> dict[str, Any]:
    result: dict[str, Any] = {name: getattr(row, name) for name in TEXTS}
    result |= {
        "n_seeds": len(row.seeds),
        "needs_task_id": row.needs_task_id,
        "isolated": row.isolated,
        "accuracy_matrix_mean": row.accuracy_matrix_mean,
    }
    result |= {name: asdict(row.measures[name]) for name in MEASURES}
    result |= {
        "config_hash": row.config_hash,
        "seeds": list(row.seeds),
        "problems": [asdict(problem) for problem in row.problems],
        "missing_seeds": list(row.missing),
        "routing": asdict(row.routing) if row.routing else None,
    }
    return result | ({"details": row.details} if details else {})


def _cells(row: Row, details: bool) -> list[Any]:
    counts = Counter(problem.status for problem in row.problems)
    unreadable, failed = counts["unreadable"], counts["failed"] + counts["diverged"]
    cells: list[Any] = [_guarded(getattr(row, name)) for name in TEXTS]
    cells += [_guarded(row.config_hash or ""), len(row.seeds), failed]
    cells += [len(row.problems) - failed - unreadable, unreadable, len(row.missing)]
    cells += [row.needs_task_id, row.isolated]
    for name in MEASURES:
        cells += asdict(row.measures[name]).values()
    routing = row.routing
    cells.append(_guarded(routing.router) if routing else None)
    for summary in (routing.oracle, routing.router_accuracy) if routing else ():
        cells += asdict(summary).values()
    cells += [] if routing else [None] * 8
    told = (
        f"seed {p.seed} {p.status}" + (f": {p.reason}" if p.reason else "") for p in row.problems
    )
    cells.append(_guarded("; ".join(told)))
    return cells + ([json.dumps(row.details)] if details else [])


def _guarded(text: str) -> str:
    plain = one_line(text, limit=2000)
    return f"'{plain}" if plain.startswith(("=", "+", "-", "@")) else plain
