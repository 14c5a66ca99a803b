"""Data sets that are fetched once into a cache, file by file verified, and read from there."""

from __future__ import annotations

import hashlib
import os
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lora_cl.data.links import Archive, Link, by_hand, file_md5, torchvision_download
from lora_cl.data.source import Dataset, Source, say_nothing
from lora_cl.errors import DataError

Contents = Mapping[str, NDArray[np.uint8]]
SUMS = "MD5SUMS"


@dataclass(frozen=True)
class File:
    """A file of the cache. None where nobody published the size or md5 of the unpacked file: then
    the published archive is verified, and what came out of it is noted in ``MD5SUMS``."""

    name: str
    size: int | None = None
    md5: str | None = None


class FetchedSource(Source):
    """A data set of a few files in ``root / folder``, laid out as torchvision lays them out.

    A copy that torchvision downloaded to ``root`` is therefore used where it lies.
    """

    origin = "fetched"
    folder: ClassVar[str]
    files: ClassVar[tuple[File, ...]]
    archives: ClassVar[tuple[Archive, ...]]
    class_names: ClassVar[tuple[str, ...]]

    @abstractmethod
    def mirrors(self) -> Sequence[str]:
        """URLs of torchvision's mirrors, each up to and without the archive's name."""

    @abstractmethod
    def parse(self, contents: Contents, folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x_train, y_train, x_test, y_test from the bytes of each file; DataError names a file."""

    def packages(self) -> tuple[Link, ...]:
        """Package mirrors, tried after torchvision's download; their files need a known md5."""
        return ()

    def unusable(self, root: Path) -> str:
        """What else lies under ``root`` and why it does not serve; empty if nothing."""
        return ""

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def where(self, root: Path) -> Path | None:
        folder = root / self.folder
        return folder if not any(_wrong(folder / f.name, f.size) for f in self.files) else None

    def fetch(self, root: Path, say: Callable[[str], None] = say_nothing) -> Path:
        folder = root / self.folder
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
                # Under root, so that a rename into place never crosses file systems.
                with tempfile.TemporaryDirectory(dir=root, prefix=".fetch-") as scratch:
                    try:
                        found = link.get(Path(scratch))
                        sums = {file.name: _accept(file, found[file.name]) for file in self.files}
                    except (DataError, OSError) as error:
                        tried.append(f"{link.name}: {error}".replace(f"{scratch}{os.sep}", ""))
                        say(f"{self.name}: {tried[-1]}")
                        continue
                    self._install(found, sums, folder)
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

    def _install(self, found: Mapping[str, Path], sums: Mapping[str, str], folder: Path) -> None:
        # Two processes may do this at once: each puts the same bytes in place by a rename.
        for file in self.files:
            _into_place(found[file.name], folder / file.name)
        noted = {file.name: sums[file.name] for file in self.files if file.md5 is None}
        if noted:
            lines = found[self.files[0].name].parent / SUMS
            lines.write_text("".join(f"{md5}  {name}\n" for name, md5 in noted.items()))
            _into_place(lines, folder / SUMS)

    def _load(self, root: Path) -> Dataset:
        folder = root / self.folder
        if not all((folder / file.name).is_file() for file in self.files):
            self.fetch(root)
        contents, sums = self._contents(folder)
        parts = self.parse(contents, folder)
        listing = "".join(f"{md5}  {name}\n" for name, md5 in sorted(sums.items()))
        checksum = f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"
        return Dataset(self.name, *parts, self.classes, self.class_names, checksum)

    def _contents(self, folder: Path) -> tuple[dict[str, NDArray[np.uint8]], dict[str, str]]:
        """The bytes of each file and its md5, read once; DataError if one is damaged."""
        noted = _noted_sums(folder / SUMS)
        contents: dict[str, NDArray[np.uint8]] = {}
        sums: dict[str, str] = {}
        for file in self.files:
            path = folder / file.name
            again = f"`lora-cl data fetch {self.name}` fetches it anew"
            if problem := _wrong(path, file.size):
                raise DataError(f"{path}: {problem}; {again}")
            try:
                contents[file.name] = np.fromfile(path, dtype=np.uint8)
            except OSError as error:
                raise DataError(f"{path}: cannot be read: {error.strerror}") from error
            sums[file.name] = hashlib.md5(
                contents[file.name].data, usedforsecurity=False
            ).hexdigest()
            expected = file.md5 or noted.get(file.name, sums[file.name])
            if sums[file.name] != expected:
                raise DataError(f"{path}: has md5 {sums[file.name]}, expected {expected}; {again}")
        return contents, sums


def _wrong(path: Path, size: int | None) -> str:
    if not path.is_file():
        return "no such file"
    length = path.stat().st_size
    if size is not None and length != size:
        return f"{'is truncated' if length < size else 'is too long'}: {length} of {size} bytes"
    return "is empty" if length == 0 else ""


def _accept(file: File, path: Path) -> str:
    """The md5 of a file that a link brought; DataError if it is not what it should be."""
    if problem := _wrong(path, file.size):
        raise DataError(f"{file.name} {problem}")
    md5 = file_md5(path)
    if file.md5 not in (None, md5):
        raise DataError(f"{file.name} has md5 {md5}, expected {file.md5}")
    return md5


def _noted_sums(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    pairs = [line.split() for line in lines if line.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise DataError(f"{path}: each line is an md5 and a file name; delete it if it is damaged")
    return {name: md5 for md5, name in pairs}


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
