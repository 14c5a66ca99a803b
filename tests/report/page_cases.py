"""Run folders made by hand for pages and plots: event logs, several tables, hostile labels."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report_cases import config, result, write

from lora_cl.records.events import append_event

STEADY = [[0.9, None, None], [0.9, 0.8, None], [0.9, 0.8, 0.7]]
LOSES = [[0.9, None, None], [0.6, 0.9, None], [0.1, 0.5, 0.9]]
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "$x^2$ \\frac{1}{2} & 5% #_{}",
    "=1+1",
    "</style><b>bold</b>",
    "{{ 7 * 7 }} {% raw %}",
    "]]> --> <!-- &amp;",
)


def seeds(
    root: Path,
    label: str,
    matrices: Sequence[list[list[float | None]]],
    method: str | None = None,
    options: dict[str, Any] | None = None,
    **changes: Any,
) -> None:
    """A run for each of the matrices, by seed, with a log of two epochs a task."""
    for seed, matrix in enumerate(matrices):
        whole = config(label, seed, method=method or label, **(options or {}))
        folder = write(
            root,
            result(
                label,
                seed,
                matrix,
                config=whole,
                method=method or label,
                hash=f"{seed:08x}{zlib.crc32(label.encode()):08x}",
                **{"config_hash": f"of {label}", **changes},
            ),
        )
        log(folder, len(matrix), 1.0 + seed)


def log(folder: Path, tasks: int, loss: float) -> None:
    for task in range(tasks):
        for epoch in (1, 2):
            place = {"task": task, "fit": 0, "epoch": epoch, "epochs": 2}
            append_event(folder, "epoch", **place, step=epoch, steps=2, loss=loss / epoch)
