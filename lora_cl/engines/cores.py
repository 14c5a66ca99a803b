"""How many cores there are for us: not those of the machine, but those we may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def jobs_for(threads: int) -> int:
    """How many runs of ``threads`` threads each keep the usable cores busy; at least one.

    Where they have several, it is one more than there is room for: much of a step is done by one
    thread alone, and meanwhile another run uses the cores.
    """
    return max(1, usable_cores() // threads + (threads > 1))


def usable_cores(system: Path = Path("/")) -> int:
    """The cores that affinity (taskset, Slurm) and the quotas of cgroups (containers) leave us.

    A quota of one and a half counts as two. ``system`` is where proc and sys lie.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas(system))]))


def _quotas(system: Path) -> Iterator[float]:
    """The cores that each cgroup around this process allows; a container sees the inner ones."""
    groups = system / "sys" / "fs" / "cgroup"
    for line in _read(system / "proc" / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            for root in (groups, groups / "unified"):
                for folder in _upwards(root, path):
                    yield from _quota(*_read(folder / "cpu.max").split())
        elif "cpu" in controllers.split(","):
            for root in (groups / "cpu", groups / controllers):
                for folder in _upwards(root, path):
                    quota, period = (_read(folder / f"cpu.cfs_{n}_us") for n in ("quota", "period"))
                    yield from _quota(quota.strip(), period.strip())


def _quota(*words: str) -> Iterator[float]:
    """From microseconds in each period; ``max`` and -1 are none."""
    with suppress(ValueError, ZeroDivisionError):
        quota, period = map(int, words)
        if quota > 0:
            yield quota / period


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """A cgroup's folder and those around it; in a container only ``root`` may be there."""
    folder = root / path.lstrip("/")
    while folder != root and root in folder.parents:
        yield folder
        folder = folder.parent
    yield root


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, ValueError):
        return ""
