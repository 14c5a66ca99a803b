"""Folders to work in that are gone afterwards, also those of processes that were killed."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = ".fetch-"

OLD = 24 * 3600.0
"""Seconds after which a temporary file that nobody holds a lock of is nobody's."""


@contextmanager
def scratch_folder(root: Path) -> Iterator[Path]:
    """A new folder in ``root``, so that a rename from it to there never crosses file systems.

    It is removed afterwards, and with it whatever killed processes left in ``root``: a scratch
    folder is in use exactly as long as the lock beside it is held. Raises OSError.
    """
    remove_leftovers(root)
    folder = root / f"{PREFIX}{secrets.token_hex(8)}"
    lock = _lock_of(folder)
    with FileLock(lock):
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                lock.unlink()


def remove_leftovers(root: Path) -> None:
    """Removes scratch folders in ``root`` that nobody uses, and temporary files a day old."""
    for name in [entry.name for entry in os.scandir(root) if entry.name.startswith(PREFIX)]:
        folder = root / name.removesuffix(".lock")
        with suppress(Timeout, OSError), FileLock(_lock_of(folder), timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
            _lock_of(folder).unlink()
    for place in (root, root / "bases"):
        for file in place.glob(".*.tmp"):
            with suppress(OSError):
                if time.time() - file.stat().st_mtime > OLD:
                    file.unlink()


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
