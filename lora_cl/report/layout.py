"""What stands in the tables for people: blocks of cells, the same for every human format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from lora_cl.report.aggregate import Comparison, Problem, Row
from lora_cl.report.columns import COLUMNS, Column, mean_std
from lora_cl.report.keys import shown
from lora_cl.report.words import plain_words
from lora_cl.text import one_line, percent

ACCURACIES = (
    "average_accuracy",
    "forgetting",
    "backward_transfer",
    "learning_accuracy",
    "n_seeds",
)
COSTS = (
    "trained_params_per_task",
    "added_params_per_task",
    "total_params",
    "stored_bytes",
    "train_seconds",
)
TRAIN = "train."
TASK_ID_MARK, REFERENCE_MARK, DIFFERS_MARK = "†", "‡", "§"
READING = "Accuracies in %: mean ± sample standard deviation over n seeds."
MOST_SEEDS, MOST_DETAILS = 5, 2000


@dataclass(frozen=True)
class Cell:
    text: str
    best: bool = False


@dataclass(frozen=True)
class Block:
    """One table; the first column names the method, the others are numbers."""

    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def part(self, columns: Sequence[int]) -> Block:
        """The names and some of the other columns, by number."""
        kept = (0, *columns)
        return Block(
            tuple(self.headers[i] for i in kept),
            tuple(tuple(row[i] for i in kept) for row in self.rows),
        )


def beside(blocks: Sequence[Block]) -> Block:
    """Blocks of the same rows as one: their columns side by side, the names once."""
    first, *others = blocks
    for other in others:
        pairs = zip(first.rows, other.rows, strict=True)
        first = Block(first.headers + other.headers[1:], tuple(a + b[1:] for a, b in pairs))
    return first


def title(comparison: Comparison) -> str:
    """What the table is of: experiment, benchmark with what is peculiar to it, scenario."""
    scenarios = sorted({f"{row.scenario}-incremental" for row in comparison.rows if row.scenario})
    benchmarks = sorted({row.benchmark for row in comparison.rows if row.benchmark})
    benchmark = ", ".join([*benchmarks, *comparison.distinction])
    parts = [comparison.name, *([benchmark] if benchmark else []), *scenarios]
    return " · ".join(map(one_line, parts))


def blocks(rows: Sequence[Row], columns: Sequence[Column] = ()) -> list[Block]:
    """The ``columns`` in one block; without any, accuracies and costs in two."""
    if columns:
        return [_block(rows, columns)]
    return [_block(rows, [COLUMNS[name] for name in names]) for names in (ACCURACIES, COSTS)]


def _block(rows: Sequence[Row], columns: Sequence[Column]) -> Block:
    best = {column.name: _best(rows, column) for column in columns}
    return Block(
        ("method", *(one_line(column.header) for column in columns)),
        tuple(
            (
                _name(row, rows),
                *(Cell(column.text(row), row.label in best[column.name]) for column in columns),
            )
            for row in rows
        ),
    )


def routing_block(rows: Sequence[Row]) -> Block | None:
    """Accuracy with the true task id, with the router, and of the router; None without routers."""
    cells = tuple(
        (
            _name(row, rows),
            Cell(one_line(row.routing.router)),
            Cell(mean_std(row.routing.oracle)),
            Cell(mean_std(row.measures["average_accuracy"])),
            Cell(mean_std(row.routing.router_accuracy)),
        )
        for row in rows
        if row.routing
    )
    headers = (
        "method",
        "router",
        "accuracy with the oracle",
        "accuracy with the router",
        "accuracy of the router",
    )
    return Block(headers, cells) if cells else None


def two_lines(header: str) -> list[str]:
    """The header broken where its longer line is shortest; one line if it is one word."""
    words = header.split()
    ways = [[" ".join(words[:i]), " ".join(words[i:])] for i in range(1, len(words))]
    return min(ways, key=lambda lines: max(map(len, lines)), default=[header])


def notes(comparison: Comparison) -> list[str]:
    """The lines below a table: how to read it, and every run that is not in its numbers."""
    lines = explanations(comparison)
    for row in comparison.rows:
        lines += _problems(row)
    return lines + [one_line(note) for note in comparison.notes]


def explanations(comparison: Comparison) -> list[str]:
    """How to read the table: its marks, what is not alike, and plain words."""
    rows = comparison.rows
    lines = [READING]
    if any(row.given_task_id for row in rows):
        lines.append(
            f"{TASK_ID_MARK} is told the task id, which this scenario withholds; "
            "does not compete for the best."
        )
    if any(row.all_at_once for row in rows):
        lines.append(
            f"{REFERENCE_MARK} learned all tasks at once: a reference, "
            "does not compete for the best."
        )
    if any(_classifier(row, rows) for row in rows):
        known = dict.fromkeys(row.classifier for row in rows if row.scenario == "class")
        names = ", ".join(f"({one_line(name)})" for name in known if name and name != "joint")
        lines.append(f"{names}: the classifier; without, one trained on all classes so far.")
    different = [row for row in rows if _differs(row, rows)]
    if different:
        lines.append(
            f"{DIFFERS_MARK} differs from other rows in more than method and options; "
            "does not compete for the best."
        )
    for row in different:
        told = ", ".join(f"{key}: {shown(value)}" for key, value in row.differs.items())
        lines.append(f"{one_line(row.label)}: {one_line(told)}")
    return lines + _trained_otherwise(rows) + plain_words(rows)


def _trained_otherwise(rows: Sequence[Row]) -> list[str]:
    """What of `train` is not the same in all rows, where their names do not tell it."""
    lines = []
    for key in dict.fromkeys(key for row in rows for key in row.options if key.startswith(TRAIN)):
        groups: dict[str, list[str]] = {}
        for row in rows:
            if key in row.options:
                groups.setdefault(shown(row.options[key]), []).append(one_line(row.label))
        *few, most = sorted(groups.items(), key=lambda group: len(group[1]))
        name = key.removeprefix(TRAIN)
        if any(f"{name}=" not in label for _, labels in few for label in labels):
            told = [f"{value} for {', '.join(labels)}" for value, labels in few]
            lines.append(f"Not trained alike: {name}: {'; '.join(told)}; {most[0]} for the others.")
    return lines


def details(rows: Sequence[Row]) -> list[str]:
    """What the methods recorded about themselves."""
    lines = []
    for row in rows:
        texts = {seed: json.dumps(value) for seed, value in row.details.items()}
        if texts and len(set(texts.values())) == 1 and len(texts) == len(row.seeds):
            texts = {-1: next(iter(texts.values()))}
        for seed, text in texts.items():
            where = "every seed" if seed < 0 else f"seed {seed}"
            lines.append(f"{one_line(row.label)}, {where}: {one_line(text, MOST_DETAILS)}")
    return lines


def _name(row: Row, rows: Sequence[Row]) -> Cell:
    marks = (
        (TASK_ID_MARK if row.given_task_id else "")
        + (REFERENCE_MARK if row.all_at_once else "")
        + (DIFFERS_MARK if _differs(row, rows) else "")
    )
    label = one_line(row.label) + _classifier(row, rows)
    return Cell(f"{label} {marks}" if marks else label)


def _classifier(row: Row, rows: Sequence[Row]) -> str:
    """What answers in a class-incremental row, where it is not the same in all: `` (local)``."""
    others = {other.classifier for other in rows if other.classifier}
    if row.scenario != "class" or row.classifier in (None, "joint") or len(others) < 2:
        return ""
    told = one_line(row.classifier, limit=40)
    return "" if told in row.label else f" ({told})"


def _differs(row: Row, rows: Sequence[Row]) -> bool:
    """Whether it has something besides method and options that not all rows have."""
    return any(other.differs.get(k) != v for other in rows for k, v in row.differs.items())


def competitors(rows: Sequence[Row], name: str) -> list[tuple[Row, float]]:
    """Those of the rows that may be the best in measure ``name``, with their means."""
    return [
        (row, mean)
        for row in rows
        if row.complete and not row.given_task_id and not row.all_at_once
        if not _differs(row, rows)
        if (mean := row.measures[name].mean) is not None
    ]


def _best(rows: Sequence[Row], column: Column) -> set[str]:
    """The labels whose shown mean is the best among those that can be compared."""
    if not column.starred:
        return set()
    found = competitors(rows, column.name)
    rounded = [(row.label, float(percent(mean))) for row, mean in found]
    if len(rounded) < 2:
        return set()
    top = max(mean for _, mean in rounded)
    return {label for label, mean in rounded if mean == top}


def _problems(row: Row) -> list[str]:
    by_status: dict[str, list[Problem]] = {}
    for problem in row.problems:
        by_status.setdefault(problem.status, []).append(problem)
    lines = []
    for status, problems in by_status.items():
        told = [
            (f"seed {problem.seed}" if problem.seed >= 0 else "unknown seed")
            + (f", {one_line(problem.reason)}" if problem.reason else "")
            for problem in problems[:MOST_SEEDS]
        ]
        lines.append(f"{one_line(row.label)}: {status}: {_listed(told, len(problems))}")
    if row.missing:
        told = [f"seed {seed}" for seed in row.missing[:MOST_SEEDS]]
        lines.append(f"{one_line(row.label)}: missing: {_listed(told, len(row.missing))}")
    return lines


def _listed(told: list[str], total: int) -> str:
    more = total - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")
