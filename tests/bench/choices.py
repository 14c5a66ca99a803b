"""Choices that were measured before they were made, or not made."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from lora_cl.benchmarks import permutation
from tests.bench.measure import Row, Setting, cpu_clocked, ratio, take_turns
from tests.bench.sides import in_process, one_thread, run_config


def rows(setting: Setting) -> list[Row]:
    """Each row: the alternative in the place of ours, the present way in that of the other."""
    return [*denormals(setting), *gathering(setting), *filling(setting)]


def denormals(setting: Setting) -> list[Row]:
    """Flushing denormal numbers to zero, in steps long after convergence."""
    train = {"iterations": setting.of(2000, 100), "batch_size": 128}
    run = run_config({"full": {}}, train=train)
    accuracies = {}

    def side(flush: bool) -> Callable[[], float]:
        def timed() -> float:
            torch.set_flush_denormal(flush)
            try:
                result, records = in_process(run, setting.scratch / "choices")
            finally:
                torch.set_flush_denormal(False)
            accuracies[flush] = result["accuracy_matrix"]
            return sum(record.seconds for record in records)

        return timed

    seconds = take_turns(setting.of(3, 1), {"flush": side(True), "keep": side(False)}, False)
    same = "the same" if accuracies[True] == accuracies[False] else "another"
    return [
        Row(
            f"set_flush_denormal(True) / False, full, {train['iterations']} steps a task",
            median(seconds["flush"]),
            median(seconds["keep"]),
            "s",
            ratio(seconds, "flush", "keep"),
            note=f"{same} accuracy matrix",
        )
    ]


def gathering(setting: Setting) -> list[Row]:
    """Making the batches of one epoch of 12 000 images."""
    found = []
    for width in (784, 1184):
        x = torch.rand(12_000, width)
        order = permutation(len(x), 0)

        def by_index(x: Tensor = x, order: Tensor = order) -> None:
            for index in torch.split(order, 128):
                _ = x[index]

        def by_select(x: Tensor = x, order: Tensor = order) -> None:
            for index in torch.split(order, 128):
                x.index_select(0, index)

        def at_once(x: Tensor = x, order: Tensor = order) -> None:
            for batch in torch.split(x.index_select(0, order), 128):
                _ = batch

        ways = {"x[index]": by_index, "index_select": by_select, "at once": at_once}
        with one_thread():
            seconds = take_turns(
                setting.of(40, 5), {n: cpu_clocked(way) for n, way in ways.items()}
            )
        batches = -(-len(x) // 128)
        for name in ("index_select", "at once"):
            found.append(
                Row(
                    f"batches of {width} features: {name} / x[index]",
                    1e6 * median(seconds[name]) / batches,
                    1e6 * median(seconds["x[index]"]) / batches,
                    "µs a batch",
                    ratio(seconds, name, "x[index]"),
                )
            )
    return found


def filling(setting: Setting) -> list[Row]:
    """Deterministic torch fills every new tensor before it is written; a run could do without."""
    run = run_config({"full": {}})

    def side(fill: bool) -> Callable[[], float]:
        def timed() -> float:
            torch.utils.deterministic.fill_uninitialized_memory = fill
            try:
                _, records = in_process(run, setting.scratch / "choices")
            finally:
                torch.utils.deterministic.fill_uninitialized_memory = True
            return sum(record.seconds for record in records)

        return timed

    seconds = take_turns(setting.of(9, 2), {"not": side(False), "fill": side(True)})
    steps = 471
    return [
        Row(
            "fill_uninitialized_memory False / True, full",
            1000 * median(seconds["not"]) / steps,
            1000 * median(seconds["fill"]) / steps,
            "ms a step",
            ratio(seconds, "not", "fill"),
        )
    ]
