"""(f) The cost of a task and (g) the peak of memory, as the number of tasks grows to 1000."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from statistics import median
from typing import Any

import torch
import yaml

from lora_cl.records.folders import load_records
from lora_cl.running.checkpoints import AdapterFolder
from lora_cl.running.making import make_benchmark, make_method
from lora_cl.running.session import Session
from tests.bench.measure import (
    COMMAND,
    Row,
    Setting,
    at_most,
    cpu_clocked,
    process,
    ratio,
    take_turns,
)
from tests.bench.sides import one_thread, run_config

METHODS = {"lora": {"rank": 8, "alpha": 16}}


def rows(setting: Setting) -> list[Row]:
    """Measurements (f) in this process and (g), each run in a process of its own."""
    return [*cost_rows(setting), *memory_rows(setting)]


def cost_rows(setting: Setting) -> list[Row]:
    """(f) Runs that stand at different tasks take turns, a task each."""
    most = setting.of(1000, 100)
    rounds = setting.of(20, 5)
    # The last round, after the one that warms up, learns the last task.
    starts = {10: 9, most // 10: most // 10 - 1, most: most - rounds - 1}
    with one_thread():
        sides = {str(number): at_task(setting, most, start) for number, start in starts.items()}
        seconds = take_turns(rounds, sides)
    return [
        at_most(
            1.1,
            f"(f) task {number} / task 10",
            1000 * median(seconds[str(number)]),
            1000 * median(seconds["10"]),
            "ms a task",
            ratio(seconds, str(number), "10"),
            f"permuted digits, 150 steps a task, no checkpoints; CPU time of {rounds} tasks there",
        )
        for number in starts
        if number > 10
    ]


def at_task(setting: Setting, tasks: int, start: int) -> Callable[[], float]:
    """A run that has learned ``start`` tasks; each call learns and evaluates the next one."""
    run = run_config(METHODS, **permuted_digits(tasks, iterations=150))
    config, cpu = run.parse(), torch.device("cpu")
    folder = setting.scratch / f"at-{start}"
    folder.mkdir(parents=True)
    benchmark = make_benchmark(config, run.seed, cpu, None)
    bank = AdapterFolder(folder / "adapters", cpu, run.run_hash)
    method = make_method(config, benchmark, bank, cpu, None)
    session = Session(config, benchmark, method, folder, run.run_hash)
    # No checkpoints: they may take a share of the clock's time, also of that in which others ran.
    session.resuming.last_cost = math.inf
    for index in range(start):
        session.do_task(index)
    following = count(start)
    return cpu_clocked(lambda: session.do_task(next(following)))


def memory_rows(setting: Setting) -> list[Row]:
    """(g) So wide that keeping every adapter in memory (142 KB each) would show."""
    most = setting.of(1000, 100)
    peaks = {number: peak(setting, number) for number in (10, most // 10, most)}
    return [
        at_most(
            1.05,
            f"(g) peak memory of {number} tasks / 10 tasks",
            peaks[number] / 2**20,
            peaks[10] / 2**20,
            "MiB",
            peaks[number] / peaks[10],
            f"{(peaks[number] - peaks[10]) / (number - 10) / 1024:.1f} KiB a task",
        )
        for number in sorted(peaks)
        if number > 10
    ]


def permuted_digits(tasks: int, iterations: int, hidden: int = 100) -> dict[str, Any]:
    """The config of a run, but for its methods."""
    return {
        "name": "many",
        "scenario": "domain",
        "benchmark": {"name": "permuted", "dataset": "digits", "tasks": tasks},
        "model": {"name": "mlp", "hidden": [hidden, hidden]},
        "train": {"iterations": iterations},
    }


def peak(setting: Setting, tasks: int) -> int:
    """The record's own measure of a run over ``tasks`` tasks."""
    config = {**permuted_digits(tasks, iterations=5, hidden=1000), "methods": METHODS}
    path = setting.scratch / f"many-{tasks}.yaml"
    path.write_text(yaml.safe_dump(config))
    results = setting.scratch / path.stem
    process([COMMAND, "run", path, "--results", results, "--jobs", "0"])
    (record,) = load_records([results])
    return int(record.result["cost"]["peak_memory_bytes"])
