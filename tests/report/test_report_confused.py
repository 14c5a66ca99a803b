"""What was taken for what: drawn in a terminal, said in words, plotted on a page."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from report_cases import record
from rich.text import Text

from lora_cl.report import aggregate
from lora_cl.report.aggregate import Row
from lora_cl.report.confused import (
    ONLY_LAST,
    confusion_of,
    draw_confusion,
    last_share,
    mean_confusion,
    only_last,
)
from lora_cl.report.figures import row_plots
from lora_cl.report.reading import Run, check
from lora_cl.report.words import plain_words

LAST = [[0, 0, 4, 0], [0, 0, 1, 3], [0, 0, 4, 0], [0, 0, 0, 4]]
HALF = [[4, 0, 0, 0], [0, 2, 1, 1], [0, 0, 4, 0], [0, 0, 2, 2]]


def class_record(counts: list[list[int]], seed: int = 0, tasks: int = 2, **changes: Any) -> Any:
    each = len(counts) // tasks
    table = np.array(counts)
    own = [slice(k * each, (k + 1) * each) for k in range(tasks)]
    right, all_ = table.diagonal(), table.sum(axis=1)
    last = [int(right[part].sum()) / int(all_[part].sum()) for part in own]
    matrix = [[1.0] * (i + 1) + [None] * (tasks - i - 1) for i in range(tasks - 1)] + [last]
    names = [
        {"name": f"task {k}", "classes": [f"c{k * each + i}" for i in range(each)]}
        for k in range(tasks)
    ]
    return record(
        "full",
        seed,
        matrix,
        scenario="class",
        tasks=names,
        confusion_matrices=[counts],
        hash=f"{seed:08x}",
        **changes,
    )


def run_of(*args: Any, **words: Any) -> Run:
    run = check(class_record(*args, **words))
    assert run.done, run.reason
    return run


def row_of(*runs: Any) -> Row:
    (comparison,) = aggregate(runs)
    (row,) = comparison.rows
    return row


def plain(lines: list[Text]) -> list[str]:
    return [line.plain.rstrip() for line in lines]


def test_classes_in_the_order_of_learning() -> None:
    assert plain(draw_confusion(run_of(LAST), 80)) == [
        "taken for: % of a class (line) answered as each (column)",
        "                     c0  c1  c2  c3",
        "  task 1  c0          0   0 100   0",
        "          c1          0   0  25  75",
        "  task 2  c2          0   0 100   0",
        "          c3          0   0   0 100",
        ONLY_LAST,
        "",
    ]
    assert ONLY_LAST not in plain(draw_confusion(run_of(HALF), 80))


def test_the_classes_of_a_task_are_taken_together_where_they_are_many() -> None:
    counts = np.zeros((24, 24), dtype=int)
    counts[:12, 12:] = 1
    counts[12:, :12] = 1
    counts[0, 0] = 12  # 12 of 156 samples of task 1 stay there; all of task 2 go to task 1.
    found = confusion_of(run_of(counts.tolist()))
    assert found is not None
    assert found.by_task
    assert found.shares == pytest.approx(np.array([[12 / 156, 144 / 156], [1.0, 0.0]]))
    lines = plain(draw_confusion(run_of(counts.tolist()), 60))
    assert lines[0] == "taken for: % of a task's samples (line) answered as each (column)"
    assert lines[1:3] == ["  task 1    8  92", "  task 2  100   0"]


def test_a_matrix_for_each_task_beside_each_other() -> None:
    run = check(
        record(
            "full",
            0,
            [[1.0, None], [0.75, 0.5]],
            tasks=[{"name": "t", "classes": ["a", "b"]}] * 2,
            confusion_matrices=[[[3, 1], [1, 3]], [[2, 2], [2, 2]]],
        )
    )
    assert run.done, run.reason
    assert plain(draw_confusion(run, 60))[1:4] == [
        "task 1     task 2",
        " 75  25     50  50",
        " 25  75     50  50",
    ]
    assert draw_confusion(check(record("full", 0, [[0.5]])), 60) == []


def test_shares_of_the_last_task_and_means_over_seeds() -> None:
    assert last_share(run_of(LAST)) == 1.0
    assert last_share(run_of(HALF)) == 10 / 16
    row = row_of(class_record(LAST), class_record(HALF, seed=1))
    assert only_last(row) is False
    assert only_last(row_of(class_record(LAST), class_record(LAST, seed=1))) is True
    mean = mean_confusion(row)
    assert mean is not None
    assert mean.shares[0].tolist() == [0.5, 0.0, 0.5, 0.0]
    assert mean.sizes == (2, 2)


def test_a_row_of_which_one_seed_was_not_measured_has_no_mean() -> None:
    other = class_record(HALF, seed=1)
    other.result["confusion_matrices"] = None
    row = row_of(class_record(LAST), other)
    assert mean_confusion(row) is None
    assert only_last(row) is None


def test_collapse_is_said_of_answers_and_not_of_accuracies_alone() -> None:
    """The accuracies of earlier tasks are 0 in both; answers are the last task's in one."""
    elsewhere = [[0, 4, 0, 0], [4, 0, 0, 0], [0, 0, 4, 0], [0, 0, 0, 4]]
    said = plain_words([row_of(class_record(LAST))])
    assert any(ONLY_LAST in line for line in said)
    assert not any(ONLY_LAST in line for line in plain_words([row_of(class_record(elsewhere))]))


def test_the_page_has_a_heat_map_of_class_incremental_rows() -> None:
    names = [plot.name for plot in row_plots(row_of(class_record(HALF)))]
    assert names == ["matrix", "tasks", "confusion"]
