"""The IDX format of the MNIST family, read strictly."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lora_cl.errors import DataError


def parse_idx(content: NDArray[np.uint8], path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array of unsigned bytes with ``dimensions`` axes that ``content`` (bytes,) holds.

    The format: two zero bytes, type 0x08, number of axes, then each axis as a big-endian 32-bit
    integer, then exactly their product of bytes. The result shares memory with ``content``. Raises
    DataError, naming ``path``, for anything else.
    """
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise DataError(
            f"{path}: is truncated: {len(content)} bytes, the header alone has {header}"
        )
    magic = bytes(content[:4])
    if magic != bytes([0, 0, 8, dimensions]):
        raise DataError(
            f"{path}: is no IDX file of bytes with {dimensions} dimensions: it begins with "
            f"{magic.hex()}, expected 000008{dimensions:02x}"
        )
    shape = tuple(int(length) for length in content[4:header].view(">u4"))
    if 0 in shape:
        raise DataError(f"{path}: says its shape is {shape} and so holds nothing")
    expected = header + prod(shape)
    if len(content) != expected:
        problem = "is truncated" if len(content) < expected else "goes on after its end"
        raise DataError(
            f"{path}: {problem}: {len(content)} bytes, {expected} expected for shape {shape}"
        )
    return content[header:].reshape(shape)
