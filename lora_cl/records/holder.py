"""Who holds the lock of a run folder."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lora_cl.files import read_regular
from lora_cl.records.layout import HOLDER
from lora_cl.text import one_line

NOTE_BYTES = 300


@contextmanager
def noted(folder: Path) -> Iterator[None]:
    """Leaves a note of this process in ``folder``, whose lock it holds, for those who wait on
    another machine. Whether that can be written changes nothing."""
    note = folder / HOLDER
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
    with suppress(OSError):
        handle = os.open(note, flags, 0o666)
        with os.fdopen(handle, "w") as file:
            file.write(f"{os.getpid()} {platform.node()}")
    try:
        yield
    finally:
        with suppress(OSError):
            note.unlink()


def is_held(lock: Path) -> bool:
    """Whether somebody holds a lock file now; False where the system does not tell.

    Never writes, and never waits.
    """
    try:
        import fcntl
    except ImportError:  # Windows.
        return False
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def holder(lock: Path) -> str:
    """Who holds a lock file: what the system tells of its own processes, or what they noted."""
    with suppress(OSError, ValueError):
        status = lock.stat()
        device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()  # 1: FLOCK ADVISORY WRITE 10693 fe:00:2326963 0 EOF
            if len(words) > 5 and words[5] == f"{device}:{status.st_ino}" and words[4].isdecimal():
                return f"process {words[4]}{_state(words[4])}"
    with suppress(OSError, ValueError):
        note = read_regular(lock.with_name(HOLDER), NOTE_BYTES).decode()
        pid, _, machine = note.partition(" ")
        if pid.isdecimal() and machine:
            return f"process {pid} on {one_line(machine, 80)}"
    return "another process"


def _state(pid: str) -> str:
    with suppress(OSError, IndexError):
        state = (Path("/proc") / pid / "stat").read_text().rpartition(")")[2].split()[0]
        return ", which is stopped" if state in "Tt" else ""
    return ""
