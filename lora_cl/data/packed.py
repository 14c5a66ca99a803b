"""Images by the thousand: decoded by several threads, and once only if memory cannot hold them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lora_cl.data.scratch import scratch_folder
from lora_cl.errors import DataError

IN_MEMORY = 1024**3
"""Stacks of more bytes than this are kept in a file, and mapped from it."""

AT_ONCE = 1024

DIGEST = hashlib.sha256().digest_size

Image = NDArray[np.uint8]


def stack(
    files: Sequence[Path], shape: tuple[int, ...], read: Callable[[Path], Image], place: Path
) -> tuple[Image, bytes]:
    """The images of ``files`` (N, *shape) uint8, and the sha256 of their bytes.

    ``read`` decodes one image, in any thread. More than IN_MEMORY bytes go to a file at ``place``,
    whose name is this stack's alone and gets a suffix that changes when ``files`` do: the images'
    bytes, then their sha256. If that file is there already and whole, nothing is decoded; if
    another is, it is removed. The stack may be written to, the file is not.
    Raises what ``read`` raises, or DataError if the file cannot be written.
    """
    whole = (len(files), *shape)
    if prod(whole) <= IN_MEMORY:
        images = _fill(np.empty(whole, dtype=np.uint8), files, read)
        return images, _sum(images)
    states = ((file, file.stat()) for file in files)
    state = digest((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in states)
    pack = place.with_name(f"{place.name}-{state}.pack")
    if found := _mapped(pack, whole):
        return found
    try:
        _write(pack, whole, files, read)
        _remove_others(pack, place)
    except OSError as error:
        need = f"its {prod(whole) / 1e9:.1f} GB of decoded images"
        raise DataError(f"{pack}: cannot hold {need}: {error.strerror or error}") from None
    if found := _mapped(pack, whole):
        return found
    raise DataError(f"{pack}: is damaged as soon as it is written; is the disk sound?")


def _mapped(pack: Path, whole: tuple[int, ...]) -> tuple[Image, bytes] | None:
    """The stack in a file and its sha256, or None unless the file is all that was written."""
    try:
        if pack.stat().st_size != prod(whole) + DIGEST:
            return None
        images: Image = np.memmap(pack, dtype=np.uint8, mode="c", shape=whole)
        with pack.open("rb") as file:
            file.seek(-DIGEST, os.SEEK_END)
            written = file.read()
    except OSError:
        return None
    found = _sum(images)
    return (images, found) if found == written else None


def _write(
    pack: Path, whole: tuple[int, ...], files: Sequence[Path], read: Callable[[Path], Image]
) -> None:
    pack.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(pack.parent) as scratch:
        temporary = scratch / pack.name
        images = np.memmap(temporary, dtype=np.uint8, mode="w+", shape=whole)
        _fill(images, files, read)
        images.flush()
        with temporary.open("ab") as file:
            file.write(_sum(images))
            file.flush()
            os.fsync(file.fileno())
        del images
        temporary.replace(pack)


def _remove_others(pack: Path, place: Path) -> None:
    for other in place.parent.glob(f"{place.name}-*"):
        if other != pack:
            with suppress(OSError):  # Windows keeps what another process has mapped.
                other.unlink()


def _sum(images: Image) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(images).data).digest()


def digest(values: Iterable[object]) -> str:
    """16 hexadecimal digits that change with any of ``values``."""
    return blake2b(repr(list(values)).encode(), digest_size=8).hexdigest()


def _fill(out: Image, files: Sequence[Path], read: Callable[[Path], Image]) -> Image:
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            for start in range(0, len(files), AT_ONCE):
                for row, image in enumerate(pool.map(read, files[start : start + AT_ONCE]), start):
                    out[row] = image
        finally:
            pool.shutdown(cancel_futures=True)
    return out
