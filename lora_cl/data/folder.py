"""Your own images, one folder per class."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from pydantic import Field

from lora_cl.data import packed
from lora_cl.data.images import FORMATS, READING, read_image, refusing_bombs
from lora_cl.data.layout import files_below, listing
from lora_cl.data.packed import digest, stack
from lora_cl.data.source import Dataset, Source, shapes_only
from lora_cl.options import OptionsBase, PathOption, user_path


class FolderOptions(OptionsBase):
    """``path`` of the folder, a relative one from the current directory; ``size`` is the height and
    width in pixels to which each image is resized; ``channels`` 1 is grey, 3 is RGB; ``ignore``
    names folders beside train/ and test/, or classes, that are not to be read."""

    path: PathOption
    """The folder; a relative one starts at the current directory."""
    size: int = Field(32, ge=1, le=1024)
    """Height and width in pixels to which each image is resized."""
    channels: Literal[1, 3] = 3
    """1 is grey, 3 is RGB."""
    ignore: tuple[str, ...] = Field((), strict=False)
    """Folders beside train/ and test/, or classes, that are not read."""


class Folder(Source):
    """``path/train/<class>/*`` and ``path/test/<class>/*``, or ``path/<class>/*`` alone.

    The layout of torchvision's ImageFolder. uint8 (N, channels, size, size): bilinear, the aspect
    ratio not kept; classes in alphabetical order. Without a test folder, a fifth of each class
    becomes the test set (``stratified_split``). Nothing but hidden files and what is no image is
    passed over silently. What is too large for memory is decoded once, into the data sets' folder.
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
        with suppress(OSError):
            return self.path if self.path.is_dir() else None
        return None

    def _stamp(self) -> Hashable:
        if self.where(self.path) is None:
            return None
        images = (file for file in files_below(self.path) if file.suffix.lower() in FORMATS)
        stats = ((file, file.stat()) for file in sorted(images))
        return (self.path.absolute(), *((f, s.st_mtime_ns, s.st_size) for f, s in stats))

    def outline(self, root: Path) -> tuple[Dataset, str]:
        """Opens no image if they are too many for memory."""
        with self.reading():
            found = listing(self.path, self.options.ignore)
        shape = (self.options.channels, self.options.size, self.options.size)
        images = len(found.files) + len(found.files_test)
        if images * prod(shape) <= packed.IN_MEMORY:
            return self.load(root), ""
        y, y_test = torch.from_numpy(found.y), torch.from_numpy(found.y_test)
        not_opened = f"the {images:,} images in {self.path} were not opened"
        return shapes_only(self.name, shape, y, y_test, found.names), not_opened

    def _load(self, root: Path) -> Dataset:
        names, files, y, files_test, y_test = listing(self.path, self.options.ignore)
        with refusing_bombs():
            x, seen = self._stack(files, root, "train")
            x_test, seen_test = self._stack(files_test, root, "test")
        whole = hashlib.sha256(seen + y.tobytes() + seen_test + y_test.tobytes())
        checksum = f"sha256:{whole.hexdigest()}"
        x_train, y_train, x_held, y_held = map(torch.from_numpy, (x, y, x_test, y_test))
        return Dataset(self.name, x_train, y_train, x_held, y_held, len(names), names, checksum)

    def _stack(self, files: list[Path], root: Path, part: str) -> tuple[NDArray[np.uint8], bytes]:
        size, channels = self.options.size, self.options.channels

        def read(file: Path) -> NDArray[np.uint8]:
            image = read_image(file, size, channels)
            return image[None] if channels == 1 else image.transpose(2, 0, 1)

        made_by = (READING, PIL.__version__)
        key = digest((str(self.path.absolute()), size, channels, part, made_by))
        return stack(files, (channels, size, size), read, root / "folder" / key)
