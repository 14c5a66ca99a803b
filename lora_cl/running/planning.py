"""What a command will do: its runs, and which of them are there already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lora_cl.config import RunConfig
from lora_cl.running.folder import RESUMED, REUSED, TO_DO, RunFolder


@dataclass(frozen=True)
class Planned:
    """A run, its folder, and what doing it will be: ``reused``, ``resumed`` or ``to do``."""

    run: RunConfig
    folder: RunFolder
    outlook: str


def summary(plan: Sequence[Planned]) -> str:
    """``45 runs: 30 reused, 15 to do``."""
    counts = Counter(planned.outlook for planned in plan)
    told = ", ".join(f"{counts[kind]} {kind}" for kind in (REUSED, RESUMED, TO_DO) if counts[kind])
    return f"{len(plan)} runs: {told}" if len(plan) != 1 else f"1 run: {told}"
