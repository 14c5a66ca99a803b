"""(e) Start-up: the help, and the table of 500 runs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import median

from lora_cl.records.folders import load_records
from lora_cl.records.results import RESULT, write_result
from tests.bench.measure import COMMAND, Row, Setting, at_most, process
from tests.bench.sides import in_process, run_config

RUNS, LABELS = 500, 10
TINY = {
    "benchmark": {"name": "split", "dataset": {"name": "synthetic"}, "tasks": 5},
    "model": {"name": "mlp", "hidden": [8]},
    "train": {"iterations": 2},
}


def rows(setting: Setting) -> list[Row]:
    """Measurement (e). The 500 run folders are one real record under other names."""
    result, _ = in_process(run_config({"full": {}}, **TINY), setting.scratch / "one")
    (one,) = (setting.scratch / "one").rglob(RESULT)
    config = one.with_name("config.yaml").read_text()
    many = setting.scratch / "many"
    for number in range(RUNS):
        label, seed = f"label{number % LABELS}", number // LABELS
        folder = many / "bench" / label / f"seed{seed}-{number:08x}"
        folder.mkdir(parents=True)
        write_result(folder, {**result, "label": label, "seed": seed})
        (folder / "config.yaml").write_text(config)
    check_counted(many, setting.scratch / "table.json")
    rounds = setting.of(15, 3)
    process([COMMAND, "--help"])
    helps = median(process([COMMAND, "--help"]) for _ in range(rounds))
    process([COMMAND, "compare", many])
    compares = median(process([COMMAND, "compare", many]) for _ in range(rounds))
    return [
        at_most(0.3, "(e) lora-cl --help", helps, None, "s", helps),
        at_most(1.5, f"(e) lora-cl compare, {RUNS} runs", compares, None, "s", compares),
    ]


def check_counted(many: Path, table: Path) -> None:
    """Refusing records is quick work: the time counts only if every run is in the table."""
    statuses = Counter(record.status for record in load_records([many]))
    process([COMMAND, "compare", many, "--format", "json", "--output", table])
    counted = sum(row["average_accuracy"]["n"] for row in json.loads(table.read_text()))
    if statuses != {"done": RUNS} or counted != RUNS:
        raise AssertionError(f"{counted} of {RUNS} runs are in the table: {dict(statuses)}")
