"""Your own images, one folder per class."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from lora_cl.data.packed import digest, stack
from lora_cl.data.source import Dataset, Source, tensor_checksum
from lora_cl.data.split import stratified_split
from lora_cl.errors import DataError
from lora_cl.options import OptionsBase, PathOption, user_path

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".gif", ".tif", ".tiff")
)


class FolderOptions(OptionsBase):
    """``path`` of the folder, a relative one from the current directory; ``size`` is the height and
    width in pixels to which each image is resized; ``channels`` 1 is grey, 3 is RGB."""

    path: PathOption
    size: int = Field(32, ge=1, le=1024)
    channels: Literal[1, 3] = 3


class Folder(Source):
    """``path/train/<class>/*`` and ``path/test/<class>/*``, or ``path/<class>/*`` alone.

    The layout of torchvision's ImageFolder. uint8 (N, channels, size, size): bilinear, the aspect
    ratio not kept; classes in alphabetical order. Without a test folder, a fifth of each class
    becomes the test set (``stratified_split``). What is too large for memory is decoded once, into
    the data sets' folder.
    """

    name = "folder"
    Options = FolderOptions
    summary = "your own images, path/train/<class>/*.png and path/test/<class>/*.png; needs `path`"
    origin = "yours"

    options: FolderOptions

    @property
    def classes(self) -> None:
        return None

    @property
    def path(self) -> Path:
        return user_path(self.options.path)

    def where(self, root: Path) -> Path | None:
        return self.path if self.path.is_dir() else None

    def _stamp(self) -> Hashable:
        files = sorted(p for p in self.path.rglob("*") if p.is_file())
        stats = ((file, file.stat()) for file in files)
        return (self.path.absolute(), *((f, s.st_mtime_ns, s.st_size) for f, s in stats))

    def _load(self, root: Path) -> Dataset:
        path = self.path
        if not path.is_dir():
            raise DataError(f"{path}: is not a folder")
        train, test = path / "train", path / "test"
        if test.is_dir() and not train.is_dir():
            raise DataError(f"{path}: has test/ but no train/")
        names = _class_names(train if train.is_dir() else path)
        files, y = _listed(train if train.is_dir() else path, names)
        if test.is_dir():
            held_names = _class_names(test)
            different = sorted(set(names) ^ set(held_names))
            if different:
                raise DataError(f"{path}: class {different[0]!r} is not in both train/ and test/")
            files_test, y_test = _listed(test, names)
        else:
            kept, held = stratified_split(y, str(path))
            files, files_test = [files[row] for row in kept], [files[row] for row in held]
            y, y_test = y[kept], y[held]
        x, x_test = self._stack(files, root, "train"), self._stack(files_test, root, "test")
        x_train, y_train, x_held, y_held = (
            torch.from_numpy(part) for part in (x, y, x_test, y_test)
        )
        checksum = tensor_checksum(x_train, y_train, x_held, y_held)
        return Dataset(self.name, x_train, y_train, x_held, y_held, len(names), names, checksum)

    def _stack(self, files: list[Path], root: Path, part: str) -> NDArray[np.uint8]:
        size, channels = self.options.size, self.options.channels

        def read(file: Path) -> NDArray[np.uint8]:
            image = read_image(file, size, channels)
            return image[None] if channels == 1 else image.transpose(2, 0, 1)

        place = root / "folder" / digest((str(self.path.absolute()), size, channels, part))
        return stack(files, (channels, size, size), read, place)


def _listed(folder: Path, names: tuple[str, ...]) -> tuple[list[Path], NDArray[np.int64]]:
    """The images below ``folder``, class by class, and their labels."""
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(f"{folder / name}: holds no image ({', '.join(sorted(SUFFIXES))})")
        files += found
        labels += [label] * len(found)
    return files, np.array(labels, dtype=np.int64)


def read_image(path: Path, size: int, channels: Literal[1, 3]) -> NDArray[np.uint8]:
    """The image as uint8, (size, size) if ``channels`` is 1, else (size, size, 3).

    Raises DataError if it cannot be read or has more than 8 bits per channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I") or image.mode == "F":
                raise DataError(f"{path}: has mode {image.mode}; allowed are 8 bits per channel")
            # Pillow warns when a palette's transparency is dropped without a stop at RGBA.
            whole = image.convert("RGBA") if "transparency" in image.info else image
            plain = whole.convert("L" if channels == 1 else "RGB")
            return np.array(plain.resize((size, size), Image.Resampling.BILINEAR), dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: is not a readable image: {error}") from error


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(
        sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    )
    if len(names) < 2:
        raise DataError(f"{folder}: holds {len(names)} class folders; at least 2 are needed")
    return names
