"""Who holds the lock of a run folder."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

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


class Process(NamedTuple):
    """A process of this machine: ``state`` is R where it computes, S where it waits, T stopped."""

    pid: int
    state: str
    parent: int


def holding(lock: Path) -> Process | None:
    """The process of this machine that holds a lock file, where the system tells."""
    with suppress(OSError, ValueError, IndexError):
        status = lock.stat()
        device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()  # 1: FLOCK ADVISORY WRITE 10693 fe:00:2326963 0 EOF
            if len(words) > 5 and words[5] == f"{device}:{status.st_ino}":
                told = (Path("/proc") / words[4] / "stat").read_text().rpartition(")")[2].split()
                return Process(int(words[4]), told[0], int(told[1]))
    return None


def holder(lock: Path) -> str:
    """Who holds a lock file: what the system tells of its own processes, or what they noted."""
    if found := holding(lock):
        return f"process {found.pid}{', which is stopped' if found.state in 'Tt' else ''}"
    with suppress(OSError, ValueError):
        note = read_regular(lock.with_name(HOLDER), NOTE_BYTES).decode()
        pid, _, machine = note.partition(" ")
        if pid.isdecimal() and machine:
            return f"process {pid} on {one_line(machine, 80)}"
    return "another process"
