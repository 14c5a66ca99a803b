"""Records as a tidy pandas frame."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lora_cl.records.folders import Record
from lora_cl.report.aggregate import MEASURES
from lora_cl.report.reading import check

if TYPE_CHECKING:
    import pandas as pd

TEXTS = ("experiment", "label", "method", "scenario", "benchmark")
FACTS = ("needs_task_id", "isolated", "config_hash", "reason")


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One line per run, failed ones included: what it is, its measures and its costs.

    Accuracies are fractions, sizes bytes, times seconds; NaN where not measured. The column
    ``folder`` holds the path of the run as text.
    """
    import pandas as pd

    lines = []
    for run in map(check, records):
        line: dict[str, object] = {name: getattr(run, name) for name in (*TEXTS, "seed", "status")}
        line["n_tasks"] = None if run.matrix is None else len(run.matrix)
        line |= {name: getattr(run, name) for name in FACTS}
        line |= {name: run.values.get(name) for name in MEASURES}
        line["router"] = run.routing.router if run.routing else None
        line["oracle_accuracy"] = run.routing.oracle if run.routing else None
        line["router_accuracy"] = run.routing.router_accuracy if run.routing else None
        lines.append(line | {"folder": str(run.folder)})
    numbers = ["n_tasks", *MEASURES, "oracle_accuracy", "router_accuracy"]
    columns = [*TEXTS, "seed", "status", "n_tasks", *FACTS, *MEASURES, "router"]
    frame = pd.DataFrame(lines, columns=[*columns, *numbers[-2:], "folder"])
    return frame.astype(dict.fromkeys(numbers, "float64"))
