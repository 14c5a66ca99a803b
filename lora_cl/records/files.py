"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any


def write_atomic(path: Path, content: bytes | Iterable[bytes | memoryview]) -> None:
    """Puts ``content`` at ``path`` so that a reader, or a crash, sees the old file or the new one.

    What is large may come in pieces. Temporary file in the same directory, fsync, rename, fsync
    of the directory. Raises OSError, and then the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for piece in [content] if isinstance(content, bytes) else content:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(folder: Path) -> None:
    """Makes the names in ``folder`` durable, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
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


def to_json(value: Any) -> bytes:
    return b"".join(json_pieces(value))


def json_pieces(value: Any) -> Iterator[bytes]:
    """As pieces of some megabytes, because the text of a thousand tasks' matrix is long."""
    parts = json.JSONEncoder(indent=1, allow_nan=False, ensure_ascii=False).iterencode(value)
    while piece := "".join(islice(parts, 200_000)):
        yield piece.encode()
    yield b"\n"


def remove_temporaries(folder: Path) -> None:
    """Removes what writers that were killed left half written in a run folder."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)
