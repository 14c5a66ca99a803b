"""Records as a tidy pandas frame."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lora_cl.records.folders import Record
from lora_cl.report.aggregate import MEASURES
from lora_cl.report.grouping import tables
from lora_cl.report.keys import CONFIG, CONTENT
from lora_cl.report.reading import Run, check
from lora_cl.report.references import with_intransigence

if TYPE_CHECKING:
    import pandas as pd

TEXTS = ("experiment", "label", "method", "scenario", "benchmark")
FACTS = ("needs_task_id", "isolated", "classifier", "config_hash", "reason")


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One line per run, failed ones included: what it is, its measures and its costs.

    Accuracies are fractions, sizes bytes, times seconds; NaN where not measured. The column
    ``folder`` holds the path of the run as text. Then come the keys of the configs, as
    ``config.train.lr``, and what else makes a result, as ``content.torch``.
    """
    import pandas as pd

    lines = []
    runs = [check(record) for record in records]
    whole = {run.folder: run for table in tables(runs) for run in with_intransigence(table.runs)}
    for run in (whole[run.folder] for run in runs):
        line: dict[str, object] = {name: getattr(run, name) for name in (*TEXTS, "seed", "status")}
        line["n_tasks"] = None if run.matrix is None else len(run.matrix)
        line |= {name: getattr(run, name) for name in FACTS}
        line |= {name: run.values.get(name) for name in MEASURES}
        line["router"] = run.routing.router if run.routing else None
        line["oracle_accuracy"] = run.routing.oracle if run.routing else None
        line["router_accuracy"] = run.routing.router_accuracy if run.routing else None
        lines.append(line | {"folder": str(run.folder)} | _made_of(run))
    numbers = ["n_tasks", *MEASURES, "oracle_accuracy", "router_accuracy"]
    columns = [*TEXTS, "seed", "status", "n_tasks", *FACTS, *MEASURES, "router"]
    columns += [*numbers[-2:], "folder"]
    others = dict.fromkeys(key for line in lines for key in line if key not in columns)
    frame = pd.DataFrame(lines, columns=[*columns, *others])
    return frame.astype(dict.fromkeys(numbers, "float64"))


def _made_of(run: Run) -> dict[str, object]:
    """A column for each option and each part of the content; a list is text, to group by."""
    options = {
        f"{CONFIG}{key}": json.dumps(value) if isinstance(value, list) else value
        for key, value in run.options.items()
    }
    return options | {f"{CONTENT}{key}": value for key, value in run.content.items()}
