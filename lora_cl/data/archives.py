"""Taking named files out of archives. A path inside an archive is never used to write anywhere."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

import numpy as np
from numpy.typing import NDArray

from lora_cl.errors import DataError

# No file of any data set here is larger; a small archive that unpacks to more is an attack.
LIMIT_BYTES = 2 * 1024**3

TARS = (".tar", ".tar.gz", ".tgz")
ZIPS = (".zip", ".whl")

DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
)


Members = Mapping[str, str]
"""Name inside an archive -> name of the file that it becomes."""


def unpack(archive: Path, members: Members, folder: Path) -> dict[str, Path]:
    """Write each of ``members`` of ``archive`` into ``folder``; file name -> path.

    A ``.tar``, ``.tar.gz``, ``.tgz``, ``.zip`` or ``.whl``; a member that is itself ``.gz`` is
    decompressed where its file name is not. A plain ``.gz`` has one nameless member; any other
    file is its own. Raises DataError if the archive is damaged, lacks a member, or holds any name
    that points outside (absolute, or with ``..``).
    """
    found: dict[str, Path] = {}
    with archive.open("rb") as stream, _whole(archive.name):
        for file, pieces in _opened(archive.name, stream, members):
            found[file] = folder / file
            with found[file].open("wb") as out:
                out.writelines(pieces)
    return found


def unpacked(name: str, content: bytes, members: Members) -> dict[str, NDArray[np.uint8]]:
    """As ``unpack``, from the bytes of the archive called ``name`` and into memory."""
    with _whole(name):
        return {
            file: np.frombuffer(bytearray().join(pieces), dtype=np.uint8)
            for file, pieces in _opened(name, io.BytesIO(content), members)
        }


@contextmanager
def _whole(name: str) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise DataError(f"{name}: is damaged: {error}") from error


def _opened(
    name: str, stream: IO[bytes], members: Members
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Each file and its bytes in pieces, to be taken before the next file is asked for."""
    opened = _in_tar if name.endswith(TARS) else _in_zip if name.endswith(ZIPS) else _alone
    for member, file, source in opened(name, stream, members):
        compressed = member.endswith(".gz") and not file.endswith(".gz")
        plain = gzip.GzipFile(fileobj=source) if compressed else source
        yield file, _pieces(plain, member)


Opened = Iterator[tuple[str, str, IO[bytes]]]


def _in_tar(name: str, stream: IO[bytes], members: Members) -> Opened:
    with tarfile.open(fileobj=stream) as tar:
        inside = {_safe(name, info.name): info for info in tar.getmembers()}
        for member, file in members.items():
            info = inside.get(member)
            source = tar.extractfile(info) if info is not None and info.isreg() else None
            if source is None:
                raise DataError(f"{name}: holds no file {member}")
            with source:
                yield member, file, source


def _in_zip(name: str, stream: IO[bytes], members: Members) -> Opened:
    with zipfile.ZipFile(stream) as zipped:
        inside = {_safe(name, info.filename): info for info in zipped.infolist()}
        for member, file in members.items():
            if member not in inside:
                raise DataError(f"{name}: holds no file {member}")
            with zipped.open(inside[member]) as source:
                yield member, file, source


def _alone(name: str, stream: IO[bytes], members: Members) -> Opened:
    for file in members.values():
        yield name, file, stream


def _safe(archive: str, name: str) -> str:
    """The member's name without a leading ``./``; DataError if it points outside its folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive:
        raise DataError(f"{archive}: refused, its member {name!r} points outside its folder")
    return str(path)


def _pieces(source: IO[bytes] | gzip.GzipFile, member: str) -> Iterator[bytes]:
    length = 0
    while piece := source.read(1024**2):
        length += len(piece)
        if length > LIMIT_BYTES:
            raise DataError(f"{member}: unpacks to more than {LIMIT_BYTES} bytes")
        yield piece
