"""Taking named files out of archives. A path inside an archive is never used to write anywhere."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from lora_cl.errors import DataError

# No file of any data set here is larger; a small archive that unpacks to more is an attack.
LIMIT_BYTES = 2 * 1024**3

DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
)


def unpack(archive: Path, members: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Write each of ``members`` (name inside -> file name) of ``archive`` into ``folder``.

    A ``.tar``, ``.tar.gz``, ``.tgz`` or ``.zip``; a member that is itself ``.gz`` is decompressed
    where its file name is not. A plain ``.gz`` has one nameless member; any other file is its own.
    Returns file name -> path. Raises DataError if the archive is damaged, lacks a member, or holds
    any name that points outside (absolute, or with ``..``).
    """
    try:
        if archive.name.endswith((".tar", ".tar.gz", ".tgz")):
            return _unpack_tar(archive, members, folder)
        if archive.name.endswith(".zip"):
            return _unpack_zip(archive, members, folder)
        with archive.open("rb") as stream:
            return {file: _write(stream, archive.name, file, folder) for file in members.values()}
    except DAMAGE as error:
        raise DataError(f"{archive.name}: is damaged: {error}") from error


def _unpack_tar(archive: Path, members: Mapping[str, str], folder: Path) -> dict[str, Path]:
    with tarfile.open(archive) as tar:
        inside = {_safe(archive, info.name): info for info in tar.getmembers()}
        found: dict[str, Path] = {}
        for member, file in members.items():
            info = inside.get(member)
            stream = tar.extractfile(info) if info is not None and info.isreg() else None
            if stream is None:
                raise DataError(f"{archive.name}: holds no file {member}")
            with stream:
                found[file] = _write(stream, member, file, folder)
        return found


def _unpack_zip(archive: Path, members: Mapping[str, str], folder: Path) -> dict[str, Path]:
    with zipfile.ZipFile(archive) as zipped:
        inside = {_safe(archive, info.filename): info for info in zipped.infolist()}
        found: dict[str, Path] = {}
        for member, file in members.items():
            if member not in inside:
                raise DataError(f"{archive.name}: holds no file {member}")
            with zipped.open(inside[member]) as stream:
                found[file] = _write(stream, member, file, folder)
        return found


def _safe(archive: Path, name: str) -> str:
    """The member's name without a leading ``./``; DataError if it points outside its folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive:
        raise DataError(f"{archive.name}: refused, its member {name!r} points outside its folder")
    return str(path)


def _write(stream: IO[bytes], member: str, file: str, folder: Path) -> Path:
    target = folder / file
    compressed = member.endswith(".gz") and not file.endswith(".gz")
    source = gzip.GzipFile(fileobj=stream) if compressed else stream
    with target.open("wb") as out:
        while chunk := source.read(1024**2):
            out.write(chunk)
            if out.tell() > LIMIT_BYTES:
                raise DataError(f"{member}: unpacks to more than {LIMIT_BYTES} bytes")
    return target
