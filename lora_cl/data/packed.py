"""Images by the thousand: decoded by several threads, and once only if memory cannot hold them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lora_cl.errors import DataError

IN_MEMORY = 1024**3
"""Stacks of more bytes than this are kept in a file, and mapped from it."""

AT_ONCE = 1024

Image = NDArray[np.uint8]


def stack(
    files: Sequence[Path], shape: tuple[int, ...], read: Callable[[Path], Image], place: Path
) -> Image:
    """The images of ``files`` (N, *shape) uint8; ``read`` decodes one, in any thread.

    More than IN_MEMORY bytes go to a file at ``place``, whose name is this stack's alone and gets
    a suffix that changes when ``files`` do. If that file is there already, nothing is decoded; if
    another is, it is removed. The stack may be written to, the file is not.
    Raises what ``read`` raises, or DataError if the file cannot be written.
    """
    whole = (len(files), *shape)
    if prod(whole) <= IN_MEMORY:
        return _fill(np.empty(whole, dtype=np.uint8), files, read)
    states = ((file, file.stat()) for file in files)
    state = digest((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in states)
    pack = place.with_name(f"{place.name}-{state}.npy")
    if not pack.is_file():
        try:
            _write(pack, whole, files, read)
            _remove_others(pack, place)
        except OSError as error:
            need = f"its {prod(whole) / 1e9:.1f} GB of decoded images"
            raise DataError(f"{pack}: cannot hold {need}: {error.strerror or error}") from None
    return np.load(pack, mmap_mode="c", allow_pickle=False)  # type: ignore[no-any-return]


def _write(
    pack: Path, whole: tuple[int, ...], files: Sequence[Path], read: Callable[[Path], Image]
) -> None:
    pack.parent.mkdir(parents=True, exist_ok=True)
    temporary = pack.with_name(f".{pack.name}.{os.getpid()}.tmp")
    try:
        mapped = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=whole)
        _fill(mapped, files, read)
        mapped.flush()
        del mapped
        temporary.replace(pack)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _remove_others(pack: Path, place: Path) -> None:
    for other in place.parent.glob(f"{place.name}-*.npy"):
        if other != pack:
            with suppress(OSError):  # Windows keeps what another process has mapped.
                other.unlink()


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
