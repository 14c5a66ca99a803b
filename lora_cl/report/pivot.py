"""One table across several: a measure of each label in every scenario."""

from __future__ import annotations

from collections.abc import Sequence

from lora_cl.report.aggregate import Comparison
from lora_cl.report.columns import COLUMNS
from lora_cl.report.layout import Block, Cell, blocks
from lora_cl.text import NOTHING, one_line


def pivot(comparisons: Sequence[Comparison]) -> Block | None:
    """A row for each label, a column with its average accuracy for each of the comparisons.

    None unless there are several, all of one benchmark, in different scenarios.
    """
    scenarios = [{row.scenario for row in one.rows} for one in comparisons]
    benchmarks = {row.benchmark for one in comparisons for row in one.rows}
    names = ["".join(found) for found in scenarios if len(found) == 1]
    if not 1 < len(comparisons) == len(names) == len(set(names)) or len(benchmarks) != 1:
        return None
    tables = [_cells(one) for one in comparisons]
    labels = dict.fromkeys(label for table in tables for label in table)
    return Block(
        ("method", *(f"{name}-incremental" for name in names)),
        tuple(
            (Cell(one_line(label)), *(table.get(label, Cell(NOTHING)) for table in tables))
            for label in labels
        ),
    )


def _cells(comparison: Comparison) -> dict[str, Cell]:
    """The average accuracy of each row, by label."""
    (block,) = blocks(comparison.rows, [COLUMNS["average_accuracy"]])
    lines = zip(comparison.rows, block.rows, strict=True)
    return {row.label: cells[1] for row, cells in lines}
