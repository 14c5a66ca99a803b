"""What stands in the tables for people: blocks of cells, the same for every human format."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lora_cl.report.aggregate import Experiment, Problem, Row
from lora_cl.report.statistics import Summary, paired
from lora_cl.text import NOTHING, count, duration, one_line, percent, size

ACCURACIES = (
    ("average accuracy ↑", "average_accuracy", 1),
    ("forgetting ↓", "forgetting", -1),
    ("backward transfer ↑", "backward_transfer", 1),
    ("learning accuracy ↑", "learning_accuracy", 1),
)
COSTS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("trained per task", "trained_params_per_task", count),
    ("added per task", "added_params_per_task", count),
    ("total params", "total_params", count),
    ("stored", "stored_bytes", size),
    ("training time", "train_seconds", duration),
)
TASK_ID_MARK, REFERENCE_MARK = "†", "‡"
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

    def beside(self, other: Block) -> Block:
        """This table with the columns of ``other``, except its first, at the right."""
        pairs = zip(self.rows, other.rows, strict=True)
        return Block(self.headers + other.headers[1:], tuple(a + b[1:] for a, b in pairs))


def title(experiment: Experiment) -> str:
    scenarios = sorted({f"{row.scenario}-incremental" for row in experiment.rows if row.scenario})
    benchmarks = sorted({row.benchmark for row in experiment.rows if row.benchmark})
    return " · ".join(map(one_line, [experiment.name, *benchmarks, *scenarios]))


def accuracy_block(rows: Sequence[Row]) -> Block:
    best = {name: _best(rows, name, sign) for _, name, sign in ACCURACIES}
    return Block(
        ("method", *(header for header, _, _ in ACCURACIES), "n"),
        tuple(
            (
                _name(row),
                *(
                    Cell(mean_std(row.measures[name]), row.label in best[name])
                    for _, name, _ in ACCURACIES
                ),
                Cell(_seeds(row)),
            )
            for row in rows
        ),
    )


def cost_block(rows: Sequence[Row]) -> Block:
    return Block(
        ("method", *(header for header, _, _ in COSTS)),
        tuple(
            (_name(row), *(Cell(_amount(row.measures[name], form)) for _, name, form in COSTS))
            for row in rows
        ),
    )


def routing_block(rows: Sequence[Row]) -> Block | None:
    """Accuracy with the true task id, with the router, and of the router; None without routers."""
    cells = tuple(
        (
            _name(row),
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


def mean_std(summary: Summary) -> str:
    if summary.mean is None:
        return NOTHING
    if summary.std is None:
        return percent(summary.mean)
    return f"{percent(summary.mean)} ± {percent(summary.std)}"


def notes(experiment: Experiment) -> list[str]:
    """The lines below a table: how to read it, and every run that is not in its numbers."""
    rows = experiment.rows
    lines = ["Accuracies in %: mean ± sample standard deviation over n seeds."]
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
    for row in rows:
        lines += _problems(row)
    return lines + [one_line(note) for note in experiment.notes]


def details(rows: Sequence[Row]) -> list[str]:
    """What the methods recorded about themselves, and the differences to the best by seed."""
    lines = []
    for row in rows:
        texts = {seed: json.dumps(value) for seed, value in row.details.items()}
        if texts and len(set(texts.values())) == 1 and len(texts) == len(row.seeds):
            texts = {-1: next(iter(texts.values()))}
        for seed, text in texts.items():
            where = "every seed" if seed < 0 else f"seed {seed}"
            lines.append(f"{one_line(row.label)}, {where}: {one_line(text, MOST_DETAILS)}")
    return lines + _differences(rows)


def _name(row: Row) -> Cell:
    marks = (TASK_ID_MARK if row.given_task_id else "") + (
        REFERENCE_MARK if row.all_at_once else ""
    )
    return Cell(f"{one_line(row.label)} {marks}" if marks else one_line(row.label))


def _seeds(row: Row) -> str:
    wanted = len(row.seeds) + len(row.problems) + len(row.missing)
    return str(wanted) if wanted == len(row.seeds) else f"{len(row.seeds)} of {wanted}"


def _amount(summary: Summary, form: Callable[[float], str]) -> str:
    return NOTHING if summary.mean is None else form(summary.mean)


def _competitors(rows: Sequence[Row], name: str) -> list[tuple[Row, float]]:
    return [
        (row, mean)
        for row in rows
        if row.complete and not row.given_task_id and not row.all_at_once
        if (mean := row.measures[name].mean) is not None
    ]


def _best(rows: Sequence[Row], name: str, sign: int) -> set[str]:
    """The labels whose shown mean is the best among those that can be compared."""
    competitors = [(row.label, float(percent(mean))) for row, mean in _competitors(rows, name)]
    if len(competitors) < 2:
        return set()
    top = max(sign * mean for _, mean in competitors)
    return {label for label, mean in competitors if sign * mean == top}


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


def _differences(rows: Sequence[Row]) -> list[str]:
    name = "average_accuracy"
    competitors = _competitors(rows, name)
    if len(competitors) < 2:
        return []
    best = max(competitors, key=lambda pair: pair[1])[0]
    lines = []
    for row in rows:
        pair = paired(row.by_seed[name], best.by_seed[name])
        if row is best or pair is None:
            continue
        line = f"{one_line(row.label)} − {one_line(best.label)}: {percent(pair.mean)}"
        if pair.ci95 is not None:
            line += f" ± {percent(pair.ci95)}"
        line += f", n = {pair.n}"
        if pair.p is not None and pair.n > 1:
            line += f", p = {pair.p:.3g} (cannot be below {pair.smallest_p:.3g})"
        lines.append(line)
    if lines:
        lines.insert(
            0,
            "Differences in average accuracy, in points, paired by seed: mean ± half width of the "
            "95 % interval, exact sign-flip p.",
        )
    return lines
