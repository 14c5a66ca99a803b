"""Who holds the lock of a run folder."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def holder(lock: Path) -> str:
    """Who holds a lock file, as far as the system tells: Linux does, for its own processes."""
    with suppress(OSError, ValueError):
        status = lock.stat()
        device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()  # 1: FLOCK ADVISORY WRITE 10693 fe:00:2326963 0 EOF
            if len(words) > 5 and words[5] == f"{device}:{status.st_ino}" and words[4].isdecimal():
                return f"process {words[4]}{_state(words[4])}"
    return "another process"


def _state(pid: str) -> str:
    with suppress(OSError, IndexError):
        state = (Path("/proc") / pid / "stat").read_text().rpartition(")")[2].split()[0]
        return ", which is stopped" if state in "Tt" else ""
    return ""
