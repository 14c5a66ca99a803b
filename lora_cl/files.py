"""Files that somebody else may have put there: opened without waiting, and read within limits."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind_of(mode: int) -> str:
    """What lies at a path, in words, from its ``st_mode``."""
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def open_now(path: str | Path) -> BinaryIO:
    """``path`` opened for reading, at once: a pipe that nobody writes to is at its end.

    Raises OSError, also for a path that no file can have.
    """
    if "\0" in os.fspath(path):
        raise OSError(errno.EINVAL, "no name holds a null character")
    waitless = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags | waitless)
    try:
        if waitless:  # Whoever writes to the pipe already is waited for.
            os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def open_regular(path: str | Path, limit: int | None = None) -> BinaryIO:
    """As ``open_now``; OSError for what is no regular file, or larger than ``limit`` bytes.

    ``strerror`` then says so. A link is followed.
    """
    if "\0" not in os.fspath(path):  # Opening a device can do something, so look at it before.
        _require_regular(os.stat(path))
    file = open_now(path)
    try:
        found = os.fstat(file.fileno())
        _require_regular(found)
        if limit is not None and found.st_size > limit:
            raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, more than {limit:,}")
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: str | Path, limit: int) -> bytes:
    """The content of a regular file of at most ``limit`` bytes; OSError as ``open_regular``."""
    with open_regular(path, limit) as file:
        return file.read(limit)


def _require_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, f"it is {kind_of(found.st_mode)}, not a file")
