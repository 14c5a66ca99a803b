"""Training on many images: streamed, and in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml

from lora_cl.records.folders import load_records
from tests.bench.measure import COMMAND, Row, Setting, process, ratio, take_turns
from tests.bench.sides import LORA, SPLIT_MNIST

METHODS: dict[str, dict[str, Any]] = {"full": {}, "lora": LORA}
TASKS = 2


def rows(setting: Setting) -> list[Row]:
    """Whole runs by their records: the time of training and the peak of memory."""
    images = setting.of(300_000, 20_000)
    steps = setting.of(600, 50)
    archive = setting.scratch / "large.npz"
    x = np.random.default_rng(0).integers(0, 256, (images, 28, 28), dtype=np.uint8)
    np.savez(archive, x=x, y=np.arange(images) % 10)
    found = []
    for label, options in METHODS.items():
        config = setting.scratch / f"{label}.yaml"
        config.write_text(yaml.safe_dump(large(archive, steps, {label: options})))
        records: dict[str, dict[str, Any]] = {}
        sides = {name: trained(config, name, records) for name in ("stream=true", "stream=false")}
        seconds = take_turns(setting.of(3, 1), sides, warm_up=False)
        streamed, in_memory = (records[name] for name in sides)
        if streamed["accuracy_matrix"] != in_memory["accuracy_matrix"]:
            raise AssertionError(f"{label}: another result when streamed")
        name = f"streamed / in memory, {label}, {images} images of 28 x 28"
        each = 1000 / (TASKS * steps)
        peaks = [r["cost"]["peak_memory_bytes"] / 2**20 for r in (streamed, in_memory)]
        found += [
            Row(
                f"{name}: training",
                each * median(seconds["stream=true"]),
                each * median(seconds["stream=false"]),
                "ms a step",
                ratio(seconds, "stream=true", "stream=false"),
                note="by the clock, with making the task's data; the same accuracies",
            ),
            Row(f"{name}: peak memory", *peaks, "MiB", peaks[0] / peaks[1]),
        ]
    return found


def large(archive: Path, steps: int, methods: dict[str, Any]) -> dict[str, Any]:
    """The config: two tasks of five classes."""
    dataset = {"name": "npz", "path": str(archive)}
    return {
        **SPLIT_MNIST,
        "benchmark": {"name": "split", "dataset": dataset, "tasks": TASKS},
        "train": {"iterations": steps, "batch_size": 128},
        "methods": methods,
    }


def trained(config: Path, override: str, records: dict[str, dict[str, Any]]) -> Callable[[], float]:
    """A whole run; its seconds of training. Its record is left in ``records``."""

    def side() -> float:
        results = config.with_suffix("")
        process([COMMAND, "run", config, "--results", results, "--force", "-o", override])
        (record,) = load_records([results])
        records[override] = record.result
        return float(record.result["cost"]["train_seconds"])

    return side
