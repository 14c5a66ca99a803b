"""Data sets that are fetched once into a cache, and read from there; verified every time.

What a file must be is known beforehand: its md5 is that of the published archive, or of what is
inside it where that is published too. Nothing that was noted at a fetch is a proof.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lora_cl.data.archives import unpacked
from lora_cl.data.fetching import File, fetch_files, wrong
from lora_cl.data.links import Archive, Link, by_hand, torchvision_download
from lora_cl.data.scratch import remove_leftovers
from lora_cl.data.source import Dataset, Source, say_nothing, shapes_only
from lora_cl.data.weights import listing_checksum
from lora_cl.errors import DataError

Contents = Mapping[str, NDArray[np.uint8]]


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
        return folder if not any(wrong(folder / f.name, f.size) for f in self.files) else None

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
        links = (
            by_hand(self.archives, (folder, root)),
            torchvision_download(self.archives, self.mirrors),
            *self.packages(),
        )
        tried = f"cache: {reason}{self.unusable(root)}"
        helped = self._help(folder)
        return fetch_files(self.name, self.files, folder, root, links, tried, helped, say)

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
        sums = {file.name: file.sum for file in self.files}
        checksum = listing_checksum(sums)
        return Dataset(self.name, *parts, self.classes, self.class_names, checksum)

    def _contents(self, folder: Path) -> dict[str, NDArray[np.uint8]]:
        """The bytes of each file, read once and verified; DataError if one is damaged."""
        archives = {archive.name: archive for archive in self.archives if archive.kept}
        contents: dict[str, NDArray[np.uint8]] = {}
        for file in self.files:
            path = folder / file.name
            again = f"`lora-cl data fetch {self.name}` fetches it anew"
            if problem := wrong(path, file.size):
                raise DataError(f"{path}: {problem}; {again}")
            archive = archives.get(file.name)
            content = path.read_bytes() if archive else np.fromfile(path, dtype=np.uint8).data
            found = hashlib.new(file.algorithm, content, usedforsecurity=False).hexdigest()
            if found != file.sum:
                raise DataError(
                    f"{path}: has {file.algorithm} {found}, expected {file.sum}; {again}"
                )
            if archive and isinstance(content, bytes):
                contents |= unpacked(archive.name, content, archive.members)
            else:
                contents[file.name] = np.asarray(content)
        return contents
