"""(h) The length of van de Ven's protocol: 12 methods, one seed, 2000 iterations a task."""

from __future__ import annotations

import resource
from pathlib import Path

from lora_cl.records.folders import load_records
from tests.bench.measure import COMMAND, Row, Setting, process

CONFIG = Path(__file__).with_name("van_de_ven.yaml")
ESTIMATE = 100.0
"""CPU minutes for 12 methods and one seed that his script names, on a machine of its own."""

NOTE = "other: the estimate in his script, made on another machine and not measured here"


def rows(setting: Setting) -> list[Row]:
    """Measurement (h): minutes of CPU and of the clock, and those of training by method."""
    results = setting.scratch / "protocol"
    # In one process: the CPU time of worker processes would not be counted among the children's.
    command = [COMMAND, "run", CONFIG, "--results", results, "--jobs", "0"]
    if setting.quick:
        command += ["-o", "train.iterations=20"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = process(command) / 60
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60
    records = load_records([results])
    name = f"(h) {len(records)} methods, one seed, {setting.of(2000, 20)} iterations a task"
    rows = [
        # Fewer iterations than his are nothing to set beside his estimate.
        Row(name, cpu, None, "CPU min", None)
        if setting.quick
        else Row(name, cpu, ESTIMATE, "CPU min", cpu / ESTIMATE, note=NOTE),
        Row(f"{name}: by the clock, --jobs 0", wall, None, "min", None),
    ]
    for record in records:
        minutes = record.result["cost"]["train_seconds"] / 60
        rows.append(Row(f"(h) {record.label}: training", minutes, None, "min", None))
    return rows
