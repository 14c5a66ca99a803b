"""The lock of a run folder, and who holds it."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from lora_cl.errors import ResultsError
from lora_cl.files import read_regular
from lora_cl.records.layout import HOLDER, LOCK
from lora_cl.text import one_line

NOTE_BYTES = 300
LOCK_SECONDS = 1.0
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds the lock of a run folder, which the system takes back from a process that is killed.

    Raises filelock.Timeout if another process has it for longer than a second, and ResultsError
    where the file system has no locks.
    """
    lock = FileLock(folder / LOCK, timeout=LOCK_SECONDS, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise ResultsError(
                f"{folder}: its file system has no locks ({error.strerror}), so that two processes "
                "could do one run; results belong on one that has (--results)"
            ) from None
        raise
    try:
        yield
    finally:
        lock.release()


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
    except OSError as error:
        return error.errno not in NO_LOCKS
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
