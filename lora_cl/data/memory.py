"""How much fits into this machine's memory, asked before something larger is begun."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from lora_cl.errors import DataError
from lora_cl.text import size


def memory_bytes() -> int | None:
    """The memory that processes here may use together; None where the system does not tell."""
    limits: list[int] = []
    with suppress(AttributeError, OSError, ValueError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):  # "max" where a container has no limit.
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits, default=None)


def require_memory(needed: int, what: str) -> None:
    """Raises DataError, beginning with ``what``, for more bytes than there are here in all."""
    there = memory_bytes()
    if there is not None and needed > there:
        raise DataError(f"{what} would take {size(needed)} of memory; here are {size(there)}")
