"""One image file as pixels: of the format that its suffix says, upright, without transparency."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lora_cl.errors import DataError

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".webp": "WEBP",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""By suffix, the one decoder that may open a file. None of them starts a program."""

UNREAD = frozenset(
    (
        ".avif",
        ".dng",
        ".eps",
        ".exr",
        ".heic",
        ".heif",
        ".jfif",
        ".jp2",
        ".npy",
        ".pdf",
        ".psd",
        ".raw",
        ".svg",
        ".tga",
    )
)
"""Suffixes of images that are not read: such a file among the others is no note of somebody's."""

MAX_PIXELS = 89_478_485
"""Of more than these, where Pillow begins to warn, a file is rather an attack than an image."""

READING = 2
"""Changes when the pixels that are made of a file do."""


@contextmanager
def refusing_bombs() -> Iterator[None]:
    """Has Pillow raise what it would warn of, in all threads that read images meanwhile."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_image(
    path: Path, size: int | tuple[int, int], channels: Literal[1, 3]
) -> NDArray[np.uint8]:
    """The image as uint8, (height, width) if ``channels`` is 1, else (height, width, 3).

    ``size`` is its height and width, or both.

    Turned as its EXIF orientation says; what is transparent lies on white, as on a page; of an
    animation the first picture. Raises DataError if it cannot be read, is too large or has more
    than 8 bits per channel.
    """
    kind = FORMATS[path.suffix.lower()]
    height, width = (size, size) if isinstance(size, int) else size
    try:
        # From a path Pillow would map what is not compressed, and mix up the rows of a TIFF image
        # that lies on its side.
        with path.open("rb") as file, Image.open(file, formats=[kind]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombWarning
            if image.mode.startswith("I") or image.mode == "F" or _deep(image):
                raise DataError(f"{path}: has mode {image.mode}; allowed are 8 bits per channel")
            image.load()
            upright = _upright(image)
            if upright.has_transparency_data:
                page = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(page, upright.convert("RGBA"))
            plain = upright.convert("L" if channels == 1 else "RGB")
            resized = plain.resize((width, height), Image.Resampling.BILINEAR)
            return np.array(resized, dtype=np.uint8)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(f"{path}: has more than {MAX_PIXELS:,} pixels") from None
    except DataError:
        raise
    except Exception as error:  # Pillow raises whatever its decoders stumble over.
        detail = " ".join(str(error).split())
        raise DataError(f"{path}: is not a readable {kind} image: {detail}") from error


def _deep(image: Image.Image) -> bool:
    """Whether Pillow would take channels of 16 bits for 8 without a word."""
    raw = [str(tile[3]) for tile in getattr(image, "tile", [])]
    return any(re.search(r";16[BLN]", mode) for mode in raw) or "('RGB', 65535)" in raw


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Its EXIF is damaged and says nothing; its pixels were read.
        return image
