"""The table on the terminal, and the same in results/published."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lora_cl.records.files import write_atomic
from tests.bench.measure import ROOT, Row

PUBLISHED = ROOT / "results" / "published"
COLUMNS = ("measurement", "ours", "other", "unit", "ratio", "target", "met", "note")
HEAD = """# How fast: lora-cl measured against what one could use in its place

Written by `make bench`, all at once or a section at a time; the last command was
{command}. The two sides of a ratio ran in one session on one
machine and took turns; a ratio is the median over the rounds of the ratios within a round, and
times are medians. Both sides of (a) train the same network on the same batches from the same
weights and arrive at the same losses; their times are of the CPU, with one thread. (b) is
class-incremental Split-MNIST with one head of 10 outputs, batches of 128 images and Adam; after
every task all tasks so far are evaluated, and Avalanche keeps accuracy metrics and has no loggers.
It is written in two ways: with Avalanche's own SplitMNIST, whose samples pass a transform one by
one (evaluated in batches of 128), and as fast as its interface allows, from float32 tensors made
once, with fused Adam (evaluated in batches of 2048). Both load data without worker processes.

{machine}
"""


def machine() -> str:
    """The machine in words that name neither it nor its user."""
    return (
        f"{processor()}, {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__.partition('+')[0]}"
    )


def processor() -> str:
    """The model of the CPU, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cells(row: Row) -> list[str]:
    """A row as text, in the order of ``COLUMNS``."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"

    met = {None: "", True: "yes", False: "no"}[row.met]
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    numbers = [number(row.ours), number(row.other)] if row.unit else ["", ""]
    return [row.name, *numbers, row.unit, ratio, row.target or "", met, row.note]


def show(rows: Sequence[Row]) -> None:
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(
            *map(escape, cells(row)), style={None: None, True: "green", False: "red"}[row.met]
        )
    Console().print(table)


def publish(sections: Mapping[str, Sequence[Row]], command: str, folder: Path) -> None:
    """Writes bench.md and bench.json; sections that were not measured now stay as they were."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bench.json"
    known = json.loads(path.read_bytes()) if path.exists() else {"sections": {}}
    if known.get("machine") != machine():
        known = {"sections": {}}
    whole = known["sections"] | {k: [asdict(row) for row in v] for k, v in sections.items()}
    content = {"machine": machine(), "sections": whole}
    write_atomic(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    lines = [HEAD.format(command=f"`{command}`", machine=machine())]
    for name, rows in whole.items():
        lines += [f"## {name}", "", _line(COLUMNS), _line(["---"] * len(COLUMNS))]
        lines += [_line(cells(Row(**row))) for row in rows] + [""]
    write_atomic(folder / "bench.md", "\n".join(lines).encode())


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"
