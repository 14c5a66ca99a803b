"""(f) The cost of a task and (g) the peak of memory, as the number of tasks grows to 1000."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from lora_cl.results import load_records, read_events
from tests.bench.measure import COMMAND, Row, Setting, at_most, process

PERMUTED_DIGITS: dict[str, Any] = {
    "name": "many",
    "scenario": "domain",
    "benchmark": {"name": "permuted", "dataset": "digits"},
    "methods": {"lora": {"rank": 8, "alpha": 16}},
}
WINDOW = 21


def rows(setting: Setting) -> list[Row]:
    """Measurements (f) and (g), each run in a process of its own."""
    most = setting.of(1000, 100)
    middle = most // 10
    rounds = [
        seconds_per_task(learn(setting, most, iterations=150)) for _ in range(setting.of(3, 1))
    ]
    note = f"150 steps a task, permuted digits; the 21 tasks around, {len(rounds)} runs"
    found = [
        at_most(
            1.1,
            f"(f) task {number} / task 10",
            1000 * median(around(seconds, number) for seconds in rounds),
            1000 * median(around(seconds, 10) for seconds in rounds),
            "ms a task",
            median(around(seconds, number) / around(seconds, 10) for seconds in rounds),
            note,
        )
        for number in (middle, most)
        if number > 10
    ]
    # So wide that keeping every adapter in memory (142 KB each) would show.
    peaks = {count: peak(learn(setting, count, 5, hidden=1000)) for count in (10, middle, most)}
    return found + [
        at_most(
            1.05,
            f"(g) peak memory of {count} tasks / 10 tasks",
            peaks[count] / 2**20,
            peaks[10] / 2**20,
            "MiB",
            peaks[count] / peaks[10],
            f"{(peaks[count] - peaks[10]) / (count - 10) / 1024:.1f} KiB a task",
        )
        for count in sorted(peaks)
        if count > 10
    ]


def learn(setting: Setting, tasks: int, iterations: int, hidden: int = 100) -> Path:
    """The folder of a finished run over ``tasks`` tasks."""
    config = {**PERMUTED_DIGITS, "train": {"iterations": iterations}}
    config["model"] = {"name": "mlp", "hidden": [hidden, hidden]}
    config["benchmark"] = {**config["benchmark"], "tasks": tasks}
    path = setting.scratch / f"many-{tasks}-{iterations}.yaml"
    path.write_text(yaml.safe_dump(config))
    results = setting.scratch / path.stem
    process([COMMAND, "run", path, "--results", results, "--jobs", "0", "--force"])
    (record,) = load_records([results])
    return record.folder


def seconds_per_task(folder: Path) -> list[float]:
    """From the start of each task to the start of the next, or to the end of the run."""
    ends = ("task_started", "done")
    times = [event["time"] for event, _ in read_events(folder) if event["event"] in ends]
    return [b - a for a, b in pairwise(times)]


def around(seconds: list[float], number: int) -> float:
    """The median over the tasks around ``number``; the very first task warms up and is left out.

    The last task's time holds the writing of the record, which is not the cost of a task.
    """
    inner = seconds[1:-1]
    start = max(0, min(number - 1 - WINDOW // 2, len(inner) - WINDOW))
    return median(inner[start : start + WINDOW])


def peak(folder: Path) -> int:
    """The record's own measure."""
    return int(json.loads((folder / "result.json").read_bytes())["cost"]["peak_memory_bytes"])
