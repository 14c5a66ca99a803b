"""Plain words below a table, where its numbers alone would mislead a reader."""

from __future__ import annotations

from collections.abc import Sequence

from lora_cl.report.aggregate import Row
from lora_cl.report.confused import ONLY_LAST, only_last
from lora_cl.text import one_line, percent

MOST_NAMED = 6
COLLAPSED, ALIVE = 0.02, 0.5
"""Earlier tasks below the one and the last above the other: only the last is answered for."""
LEARNED_LITTLE = 0.1
"""So far below the best in learning accuracy, little forgetting is no merit."""
SIGNIFICANT = 0.05


def plain_words(rows: Sequence[Row]) -> list[str]:
    """What should be said of the rows; a line each."""
    known = [row for row in rows if row.seeds]
    lines = [*_collapse(known), *_isolated(known), *_learned_little(known), *_seeds(known)]
    return [line for line in lines if line]


def _collapse(rows: Sequence[Row]) -> list[str]:
    """In class-incremental runs: who answers with nothing but the last task's classes."""
    found = []
    for row in rows:
        matrix = row.accuracy_matrix_mean
        if row.scenario != "class" or matrix is None or len(matrix) < 2:
            continue
        answered = only_last(row)
        if _looks_collapsed(matrix[-1]) if answered is None else answered:
            found.append(row)
    if not found:
        return []
    means = [mean for row in found if (mean := row.measures["average_accuracy"].mean) is not None]
    low, high = percent(min(means)), percent(max(means))
    told = f"{low} %" if low == high else f"{low} to {high} %"
    return [f"{_names(found)}: {told} is what collapse looks like: {ONLY_LAST}."]


def _looks_collapsed(last: Sequence[float | None]) -> bool:
    """What the last row of an accuracy matrix says of it, where no answers are on record."""
    return all(x is not None and x <= COLLAPSED for x in last[:-1]) and (last[-1] or 0.0) >= ALIVE


def _isolated(rows: Sequence[Row]) -> list[str]:
    found = [row for row in rows if row.isolated and row.measures["forgetting"].mean == 0]
    if not found:
        return []
    return [
        f"{_names(found)}: forgetting is 0 by construction, and checked: what each task uses is "
        "hashed when it is learned and after every later task."
    ]


def _learned_little(rows: Sequence[Row]) -> list[str]:
    learned = {
        row.label: mean
        for row in rows
        if (mean := row.measures["learning_accuracy"].mean) is not None
    }
    top = max(learned.values(), default=0.0)
    found = [row for row in rows if learned.get(row.label, top) < top - LEARNED_LITTLE]
    if not found:
        return []
    return [
        f"{_names(found)}: learned the tasks more than {round(100 * LEARNED_LITTLE)} points worse "
        "than the best row; who learned little has little to forget."
    ]


def _seeds(rows: Sequence[Row]) -> list[str]:
    """What so few seeds cannot tell; nothing where there is nothing to compare."""
    n = max((len(row.seeds) for row in rows), default=0)
    if len(rows) < 2 or n == 0:
        return []
    if n == 1:
        return ["n = 1: a single seed has no deviation; a difference may be chance."]
    smallest = 2.0 / 2**n
    if smallest <= SIGNIFICANT:
        return []
    return [f"n = {n}: no exact p of a difference is below {smallest:.3g}, however large it is."]


def _names(rows: Sequence[Row]) -> str:
    named = ", ".join(one_line(row.label) for row in rows[:MOST_NAMED])
    more = len(rows) - MOST_NAMED
    return f"{named} and {more} more" if more > 0 else named
