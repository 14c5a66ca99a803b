"""What a command will do: its runs, and which of them are there already."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lora_cl.config import RunConfig
from lora_cl.errors import ConfigError
from lora_cl.running.folder import RESUMED, REUSED, TO_DO, RunFolder
from lora_cl.text import one_line


@dataclass(frozen=True)
class Planned:
    """A run, its folder, and what doing it will be: ``reused``, ``resumed`` or ``to do``."""

    run: RunConfig
    folder: RunFolder
    outlook: str


@dataclass(frozen=True)
class Shard:
    """One of ``n`` parts of all runs, by a run's hash alone: ``number`` counts from 1.

    Each run is in one part, the same whatever other runs, methods and seeds are asked for.
    """

    number: int
    n: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From ``2/7``; ConfigError for anything else."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            told = one_line(text, 40)
            raise ConfigError(
                f"--shard: {told!r} is not allowed: it is i/n, the i-th of n, as 1/4 to 4/4"
            )
        return cls(int(match[1]), int(match[2]))

    def __contains__(self, run: RunConfig) -> bool:
        return int(run.run_hash[:16], 16) % self.n == self.number - 1


def titles(plan: Sequence[Planned]) -> list[str]:
    """What the runs are of, a line each: ``digits · split · task-incremental``."""
    found: dict[str, None] = {}
    for run in (planned.run for planned in plan):
        benchmark, scenario = run.resolved["benchmark"]["name"], run.resolved["scenario"]
        found[one_line(f"{run.experiment} · {benchmark} · {scenario}-incremental")] = None
    return list(found)


def summary(plan: Sequence[Planned]) -> str:
    """``45 runs: 30 reused, 15 to do``."""
    counts = Counter(planned.outlook for planned in plan)
    told = ", ".join(f"{counts[kind]} {kind}" for kind in (REUSED, RESUMED, TO_DO) if counts[kind])
    return f"{len(plan)} runs: {told}" if len(plan) != 1 else f"1 run: {told}"
