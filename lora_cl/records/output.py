"""Files whose name a person gives: whatever stands there keeps its kind and its mode."""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from lora_cl.records.files import write_atomic

_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/([0-9]+)")


def write_output(path: Path, content: bytes) -> None:
    """Writes ``content`` at ``path``, making the folders that are missing.

    A file is replaced at once, as ``write_atomic`` does, through a link where the file lies, and
    keeps its mode. Into a pipe, a device, or a file that this process was given open, such as
    /dev/stdout, the content is written. Raises OSError, whose ``strerror`` says why.
    """
    found = _found(path)
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, "it is a directory, not a file")
    descriptor = _open_already(path, found)
    if descriptor is not None:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
    elif found is not None and not stat.S_ISREG(found.st_mode):
        flags = os.O_WRONLY | getattr(os, "O_NOCTTY", 0)
        with os.fdopen(os.open(path, flags), "wb") as file:
            file.write(content)
    else:
        if found is not None and not os.access(path, os.W_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, content, like=found)


def _found(path: Path) -> os.stat_result | None:
    """What lies at ``path`` or where it leads to; None where nothing does."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _open_already(path: Path, found: os.stat_result | None) -> int | None:
    """The descriptor under which this process has the file open to write, if it has."""
    match = _DESCRIPTOR.fullmatch(str(path))
    for descriptor in (1, 2, *([int(match[1])] if match else [])):
        with suppress(OSError):
            if found is not None and os.path.samestat(os.fstat(descriptor), found):
                return descriptor
    return None
