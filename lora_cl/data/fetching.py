"""Files that are fetched once, along a chain of links, and verified."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_cl.data.links import Link, file_sum
from lora_cl.data.scratch import scratch_folder
from lora_cl.errors import DataError

Say = Callable[[str], None]


@dataclass(frozen=True)
class File:
    """A file of the cache, its published md5 or sha256, or how the latter begins where no more is
    published, and its size where that is known too."""

    name: str
    sum: str
    size: int | None = None

    @property
    def algorithm(self) -> str:
        return "md5" if len(self.sum) == 32 else "sha256"

    def check(self, path: Path) -> str:
        """What is wrong with the copy at ``path``; empty if it is the file."""
        if problem := wrong(path, self.size):
            return problem
        found = file_sum(path, self.algorithm)
        if found.startswith(self.sum):
            return ""
        return f"has {self.algorithm} {found}, expected {self.sum}"


def fetch_files(
    name: str,
    files: Sequence[File],
    folder: Path,
    root: Path,
    links: Sequence[Link],
    cached: str,
    by_hand: str,
    say: Say,
) -> Path:
    """Gets ``files`` of ``name`` along the first of ``links`` that has them; returns ``folder``.

    Raises DataError that tells every way that was tried, first ``cached``, why what was there did
    not serve, and at last ``by_hand``, how a person can help. All is written below ``root``.
    """
    tried = [cached]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for link in links:
            say(f"{name}: trying {link.name}")
            with scratch_folder(root) as scratch:
                try:
                    found = link.get(scratch)
                    for file in files:
                        if problem := file.check(found[file.name]):
                            raise DataError(f"{file.name} {problem}")
                except (DataError, OSError) as error:
                    tried.append(f"{link.name}: {error}".replace(f"{scratch}{os.sep}", ""))
                    say(f"{name}: {tried[-1]}")
                    continue
                # Two processes may do this at once: each puts the same bytes in place.
                for file in files:
                    _into_place(found[file.name], folder / file.name)
            say(f"{name}: fetched from {link.name} to {folder}, verified")
            return folder
    except OSError as error:
        raise DataError(
            f"{name}: cannot write to {root}: {error.strerror or error}; "
            "--data-dir or LORA_CL_DATA name another folder"
        ) from error
    raise DataError("\n  ".join((f"{name}: cannot be had. Tried:", *tried, by_hand)))


def wrong(path: Path, size: int | None) -> str:
    try:
        if not path.is_file():
            return "no such file"
        length = path.stat().st_size
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if size is not None and length != size:
        return f"{'is truncated' if length < size else 'is too long'}: {length} of {size} bytes"
    return "is empty" if length == 0 else ""


def _into_place(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target``: a reader, or a crash, meets the whole file or none."""
    with source.open("rb") as stream:
        os.fsync(stream.fileno())
    source.replace(target)
    if os.name == "posix":
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
