"""Rows for programs: JSON and CSV, raw numbers, accuracies as fractions."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lora_cl.report.aggregate import MEASURES, Comparison, Row
from lora_cl.report.baseline import NUMBERS, Against
from lora_cl.report.columns import Column
from lora_cl.report.keys import CONFIG, CONTENT
from lora_cl.text import one_line

TEXTS = ("experiment", "label", "method", "scenario", "benchmark")
STATISTICS = ("mean", "std", "ci95", "n")
ROUTED = ("oracle", "router_accuracy")
BASELINE = "baseline_"


def json_text(
    comparisons: Sequence[Comparison],
    details: bool = False,
    columns: Sequence[Column] = (),
    compared: Sequence[Against] = (),
) -> str:
    """An array with one object per row, one row a line; null where nothing was measured.

    With ``columns`` of what is no text that names the row, only those. ``compared``: each of the
    comparisons against a baseline, which is then part of the objects.
    """
    rows = [_object(row, details, columns) for one in comparisons for row in one.rows]
    for row, baseline in zip(rows, _baselines(comparisons, compared), strict=bool(compared)):
        row["baseline"] = baseline
    return "[\n" + ",\n".join(json.dumps(row, allow_nan=False) for row in rows) + "\n]\n"


def csv_text(
    comparisons: Sequence[Comparison],
    details: bool = False,
    columns: Sequence[Column] = (),
    compared: Sequence[Against] = (),
) -> str:
    """One line per row; an empty cell where nothing was measured.

    A text that a spreadsheet would take for a formula gets a leading apostrophe. ``columns`` and
    ``compared`` are as in ``json_text``.
    """
    rows = [row for one in comparisons for row in one.rows]
    options = dict.fromkeys(key for row in rows for key in row.options)
    contents = dict.fromkeys(key for row in rows for key in row.content)
    statistics = [f"{name}_{part}" for name in MEASURES for part in STATISTICS]
    head = [*TEXTS, "config_hash", "n_seeds", "n_failed", "n_unfinished", "n_unreadable"]
    head += ["n_missing", "needs_task_id", "isolated", "classifier", *statistics, "router"]
    head += [f"{name}_{part}" for name in ROUTED for part in STATISTICS] + ["problems"]
    head += [f"{CONFIG}{key}" for key in options] + [f"{CONTENT}{key}" for key in contents]
    if columns:
        head = list(dict.fromkeys([*TEXTS, *(n for c in columns for n in _csv_names(c, head))]))
    head += [f"{BASELINE}{name}" for name in ("label", *NUMBERS)] if compared else []
    head += ["details"] if details else []
    lines = [_cells(row) for row in rows]
    for line, baseline in zip(lines, _baselines(comparisons, compared), strict=bool(compared)):
        line |= {f"{BASELINE}{name}": value for name, value in (baseline or {}).items()}
    for line, row in zip(lines, rows, strict=True):
        line["details"] = row.details
    return csv_of(head, lines)


def csv_of(head: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> str:
    """Lines as CSV: lists and mappings as JSON, and no text that a spreadsheet would compute."""
    out = io.StringIO()
    writer = csv.DictWriter(out, head, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in line.items()} for line in lines)
    return out.getvalue()


def _baselines(
    comparisons: Sequence[Comparison], compared: Sequence[Against]
) -> list[dict[str, Any] | None]:
    """What is known of each row against its baseline; nothing without one."""
    pairs = zip(comparisons, compared, strict=bool(compared))
    return [other.as_json(row.label) for one, other in pairs for row in one.rows]


def _object(row: Row, details: bool, columns: Sequence[Column]) -> dict[str, Any]:
    result: dict[str, Any] = {name: getattr(row, name) for name in TEXTS}
    result |= {
        "n_seeds": len(row.seeds),
        "needs_task_id": row.needs_task_id,
        "isolated": row.isolated,
        "classifier": row.classifier,
        "accuracy_matrix_mean": row.accuracy_matrix_mean,
    }
    result |= {name: asdict(row.measures[name]) for name in MEASURES}
    result |= {
        "config_hash": row.config_hash,
        "seeds": list(row.seeds),
        "problems": [asdict(problem) for problem in row.problems],
        "missing_seeds": list(row.missing),
        "routing": asdict(row.routing) if row.routing else None,
        "config": row.options,
        "content": row.content,
    }
    if columns:
        result = _chosen(result, {column.name for column in columns})
    return result | ({"details": row.details} if details else {})


def _chosen(result: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Of a whole object, what names the row, and what is among ``names``."""
    kept = {key: value for key, value in result.items() if key in names or key in TEXTS}
    if names & {"router", *ROUTED}:
        kept["routing"] = result["routing"]
    for key, prefix in (("config", ""), ("content", CONTENT)):
        inner = {k: v for k, v in result[key].items() if f"{prefix}{k}" in names}
        kept |= {key: inner} if inner else {}
    return kept


def _csv_names(column: Column, head: Sequence[str]) -> list[str]:
    """The columns of the whole CSV that one for people stands for."""
    wanted = {column.name, f"{CONFIG}{column.name}"}
    wanted |= {f"{column.name}_{part}" for part in STATISTICS}
    return [name for name in head if name in wanted]


def _cells(row: Row) -> dict[str, Any]:
    counts = Counter(problem.status for problem in row.problems)
    unreadable, failed = counts["unreadable"], counts["failed"] + counts["diverged"]
    cells: dict[str, Any] = {name: getattr(row, name) for name in (*TEXTS, "config_hash")}
    cells |= {
        "n_seeds": len(row.seeds),
        "n_failed": failed,
        "n_unfinished": len(row.problems) - failed - unreadable,
        "n_unreadable": unreadable,
        "n_missing": len(row.missing),
        "needs_task_id": row.needs_task_id,
        "isolated": row.isolated,
        "classifier": row.classifier,
    }
    summaries = dict(row.measures)
    if row.routing:
        cells["router"] = row.routing.router
        summaries |= {name: getattr(row.routing, name) for name in ROUTED}
    for name, summary in summaries.items():
        cells |= {f"{name}_{part}": value for part, value in asdict(summary).items()}
    told = (
        f"seed {p.seed} {p.status}" + (f": {p.reason}" if p.reason else "") for p in row.problems
    )
    cells["problems"] = "; ".join(told)
    cells |= {f"{CONFIG}{key}": value for key, value in row.options.items()}
    return cells | {f"{CONTENT}{key}": value for key, value in row.content.items()}


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value)
    if not isinstance(value, str):
        return value
    plain = one_line(value, limit=2000)
    return f"'{plain}" if plain.startswith(("=", "+", "-", "@")) else plain
