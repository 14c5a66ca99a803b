"""Files that are written whole or not at all, and folders in which nobody else's is touched.

Where something is written or removed below a results directory, a link on the way is an error and
never followed. What lies there is looked at when it is asked for: this guards against links that
were put there, not against somebody who changes the folder in that very moment.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from lora_cl.errors import ResultsError
from lora_cl.files import kind_of

TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9]+\.tmp")
"""Under which name ``write_atomic`` writes what is to be called ``name``."""

_NOT_SYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def write_atomic(
    path: Path, content: bytes | Iterable[bytes | memoryview], like: os.stat_result | None = None
) -> None:
    """Puts ``content`` at ``path`` so that a reader, or a crash, sees the old file or the new one.

    What is large may come in pieces. Temporary file in the same directory, fsync, rename, fsync
    of the directory. The file is new, with owner and mode as usual, or as far as can be those of
    ``like``. Raises OSError, and then the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # Left by a process that had this number before.
    try:
        with create(temporary, 0o666 if like is None else 0o600) as file:
            if like is not None:
                _look_like(file.fileno(), like)
            for piece in [content] if isinstance(content, bytes) else content:
                file.write(piece)
            file.flush()
            _sync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def create(path: Path, mode: int = 0o666) -> BinaryIO:
    """A new file at ``path`` for writing; FileExistsError if anything, even a link, is there."""
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode))


def _look_like(descriptor: int, like: os.stat_result) -> None:
    mode = stat.S_IMODE(like.st_mode)
    if hasattr(os, "fchown"):
        now = os.fstat(descriptor)
        try:
            if (now.st_uid, now.st_gid) != (like.st_uid, like.st_gid):
                os.fchown(descriptor, like.st_uid, like.st_gid)
        except PermissionError:
            with suppress(PermissionError):
                os.fchown(descriptor, -1, like.st_gid)
            if os.fstat(descriptor).st_gid != like.st_gid:
                mode &= ~0o070  # What that group might do is not for another one.
        os.fchmod(descriptor, mode)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:  # Some file systems cannot, and say so.
        if error.errno not in _NOT_SYNCED:
            raise


def sync_directory(folder: Path) -> None:
    """Makes the names in ``folder`` durable, where the system can."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # One may be allowed to write in it, and not to read it.
        return
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(folder: Path) -> str:
    """Why no file can be made in ``folder``, which is made if missing; empty where one can."""
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def open_to_append(path: Path) -> BinaryIO:
    """``path`` for reading and for appending, made if missing.

    Raises ResultsError if it is a link, a pipe or anything but a file of its own.
    """
    require_file(path)
    extra = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return open(path, "a+b", opener=lambda name, flags: os.open(name, flags | extra, 0o666))


def require_file(path: Path) -> None:
    """Raises ResultsError if what lies at ``path`` is no regular file; nothing may lie there."""
    with suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            raise ResultsError(
                f"{path}: is {kind_of(mode)}, where a run writes a file; nothing is changed"
            )


def make_within(root: Path, *parts: str) -> Path:
    """The folder root/parts..., made if missing; ``root`` itself may be a link.

    Raises ResultsError if below ``root`` a link, or anything but a folder, is in the way.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = root
    for part in parts:
        folder = folder / part
        with suppress(FileExistsError):
            folder.mkdir()
        require_folder(folder)
    return folder


def require_folder(path: Path) -> bool:
    """Whether ``path`` is there; ResultsError if it is a link or anything but a folder."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(mode):
        raise ResultsError(
            f"{path}: is {kind_of(mode)}, where a folder of a run belongs; nothing is changed"
        )
    return True


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Removes the files ``names`` in ``folder``, in this order; whatever else lies there stays.

    A link is removed, not followed. Raises ResultsError if ``folder`` is a link, or a folder lies
    where a file is to be removed.
    """
    if not require_folder(folder):
        return
    for name in names:
        path = folder / name
        try:
            path.unlink(missing_ok=True)
        except (IsADirectoryError, PermissionError):
            if not path.is_dir():
                raise
            raise ResultsError(f"{path}: is a directory, where a run writes a file") from None


def remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def sorted_json(value: Any) -> bytes:
    """As text that is the same for the same content."""
    return b"".join(json_pieces(json.loads(json.dumps(value, sort_keys=True))))


def json_pieces(value: Any) -> Iterator[bytes]:
    """As pieces of some megabytes, because the text of a thousand tasks' matrix is long."""
    parts = json.JSONEncoder(indent=1, allow_nan=False, ensure_ascii=False).iterencode(value)
    while piece := "".join(islice(parts, 200_000)):
        yield piece.encode()
    yield b"\n"
