"""Data sets that are fetched once into a cache, and read from there; verified every time.

What a file must be is known beforehand: its md5 is that of the published archive, or of what is
inside it where that is published too. Nothing that was noted at a fetch is a proof.
"""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lora_cl.data.archives import unpacked
from lora_cl.data.links import Archive, Link, by_hand, file_md5, torchvision_download
from lora_cl.data.scratch import remove_leftovers, scratch_folder
from lora_cl.data.source import Dataset, Source, say_nothing, shapes_only
from lora_cl.errors import DataError

Contents = Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class File:
    """A file of the cache, its published md5, and its size where that is known too."""

    name: str
    md5: str
    size: int | None = None


def kept(archives: Sequence[Archive]) -> tuple[File, ...]:
    """The files of a cache that holds the archives themselves."""
    return tuple(File(archive.name, archive.md5) for archive in archives)


class FetchedSource(Source):
    """A data set of a few files in ``root / folder``, laid out as torchvision lays them out.

    A copy that torchvision downloaded to ``root`` is therefore used where it lies.
    """

    origin = "fetched"
    folder: ClassVar[str]
    files: ClassVar[tuple[File, ...]]
    archives: ClassVar[tuple[Archive, ...]]
    class_names: ClassVar[tuple[str, ...]]
    shape: ClassVar[tuple[int, int, int]]
    """(C, H, W) of every image."""

    @abstractmethod
    def mirrors(self) -> Sequence[str]:
        """URLs of torchvision's mirrors, each up to and without the archive's name."""

    @abstractmethod
    def parse(self, contents: Contents, folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x_train, y_train, x_test, y_test from the bytes of each file, those of an archive that is
        kept unpacked; DataError names a file."""

    def packages(self) -> tuple[Link, ...]:
        """Package mirrors, tried after torchvision's download; their files need a known md5."""
        return ()

    def unusable(self, root: Path) -> str:
        """What else lies under ``root`` and why it does not serve; empty if nothing."""
        inside = {name for archive in self.archives for name in archive.members.values()}
        unpacked = sorted(inside - {file.name for file in self.files})
        if any((root / self.folder / name).is_file() for name in unpacked):
            return " (what lies there unpacked has no published checksum; the archives have)"
        return ""

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def where(self, root: Path) -> Path | None:
        folder = root / self.folder
        return folder if not any(_wrong(folder / f.name, f.size) for f in self.files) else None

    def outline(self, root: Path) -> tuple[Dataset, str]:
        """Where no sound copy is here: the published shape and classes, with samples of each."""
        state = "is not here yet"
        if self.where(root) is not None:
            try:
                return self.load(root), ""
            except DataError:
                state = "is damaged here (a run fetches it anew)"
        y = torch.arange(self.classes)
        known = shapes_only(self.name, self.shape, y, y, self.class_names)
        return known, f"{self.name} {state}: checked without it"

    def fetch(self, root: Path, say: Callable[[str], None] = say_nothing) -> Path:
        folder = root / self.folder
        with suppress(OSError):
            remove_leftovers(root)
        reason = self._cached(root)
        if not reason:
            say(f"{self.name}: verified in {folder}")
            return folder
        tried = [f"cache: {reason}{self.unusable(root)}"]
        links = (
            by_hand(self.archives, (folder, root)),
            torchvision_download(self.archives, self.mirrors),
            *self.packages(),
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for link in links:
                say(f"{self.name}: trying {link.name}")
                with scratch_folder(root) as scratch:
                    try:
                        found = link.get(scratch)
                        for file in self.files:
                            _accept(file, found[file.name])
                    except (DataError, OSError) as error:
                        tried.append(f"{link.name}: {error}".replace(f"{scratch}{os.sep}", ""))
                        say(f"{self.name}: {tried[-1]}")
                        continue
                    # Two processes may do this at once: each puts the same bytes in place.
                    for file in self.files:
                        _into_place(found[file.name], folder / file.name)
                say(f"{self.name}: fetched from {link.name} to {folder}, verified")
                return folder
        except OSError as error:
            raise DataError(
                f"{self.name}: cannot write to {root}: {error.strerror or error}; "
                "--data-dir or LORA_CL_DATA name another folder"
            ) from error
        raise DataError(
            "\n  ".join((f"{self.name}: cannot be had. Tried:", *tried, self._help(folder)))
        )

    def _cached(self, root: Path) -> str:
        """Why the copy under ``root`` does not serve; empty if it does, and then it is loaded."""
        folder = root / self.folder
        missing = [file.name for file in self.files if not (folder / file.name).is_file()]
        if missing:
            return f"{missing[0]} is not in {folder}"
        try:
            self._load_anew(root)
        except DataError as error:
            return str(error)
        return ""

    def _help(self, folder: Path) -> str:
        names = ", ".join(archive.name for archive in self.archives)
        held = names if self.folder == "." else self.folder
        return (
            f"By hand: put {names} into {folder}, or let --data-dir or LORA_CL_DATA name a folder "
            f"that holds {held}"
        )

    def _load(self, root: Path) -> Dataset:
        folder = root / self.folder
        if not all((folder / file.name).is_file() for file in self.files):
            self.fetch(root)
        parts = self.parse(self._contents(folder), folder)
        for x in (parts[0], parts[2]):
            if x.shape[1:] != self.shape:
                found = tuple(x.shape[1:])
                raise DataError(f"{folder}: holds images of {found}, {self.name} has {self.shape}")
        sums = {file.name: file.md5 for file in self.files}
        listing = "".join(f"{md5}  {name}\n" for name, md5 in sorted(sums.items()))
        checksum = f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"
        return Dataset(self.name, *parts, self.classes, self.class_names, checksum)

    def _contents(self, folder: Path) -> dict[str, NDArray[np.uint8]]:
        """The bytes of each file, read once and verified; DataError if one is damaged."""
        archives = {archive.name: archive for archive in self.archives if archive.kept}
        contents: dict[str, NDArray[np.uint8]] = {}
        for file in self.files:
            path = folder / file.name
            again = f"`lora-cl data fetch {self.name}` fetches it anew"
            if problem := _wrong(path, file.size):
                raise DataError(f"{path}: {problem}; {again}")
            archive = archives.get(file.name)
            content = path.read_bytes() if archive else np.fromfile(path, dtype=np.uint8).data
            md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
            if md5 != file.md5:
                raise DataError(f"{path}: has md5 {md5}, expected {file.md5}; {again}")
            if archive and isinstance(content, bytes):
                contents |= unpacked(archive.name, content, archive.members)
            else:
                contents[file.name] = np.asarray(content)
        return contents


def _wrong(path: Path, size: int | None) -> str:
    try:
        if not path.is_file():
            return "no such file"
        length = path.stat().st_size
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if size is not None and length != size:
        return f"{'is truncated' if length < size else 'is too long'}: {length} of {size} bytes"
    return "is empty" if length == 0 else ""


def _accept(file: File, path: Path) -> None:
    """Raises DataError if a file that a link brought is not what it should be."""
    if problem := _wrong(path, file.size):
        raise DataError(f"{file.name} {problem}")
    md5 = file_md5(path)
    if md5 != file.md5:
        raise DataError(f"{file.name} has md5 {md5}, expected {file.md5}")


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
