"""Your own arrays in a numpy archive."""

from __future__ import annotations

import zipfile
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lora_cl.data.memory import require_memory
from lora_cl.data.source import Dataset, Source, pixels, tensor_checksum
from lora_cl.data.split import stratified_split
from lora_cl.errors import DataError
from lora_cl.options import OptionsBase, PathOption, user_path
from lora_cl.text import did_you_mean

Array = NDArray[Any]
CHANNELS = (1, 3, 4)
ARRAYS = ("x", "y", "x_test", "y_test")


class NpzOptions(OptionsBase):
    """``path`` of the archive; a relative one starts at the current directory."""

    path: PathOption
    """The archive; a relative path starts at the current directory."""


class Npz(Source):
    """Arrays ``x``, ``y`` and, both or neither, ``x_test``, ``y_test``; what ``np.savez`` writes.

    x: (N, F), (N, H, W) or (N, C, H, W), and not (N, H, W, C), which is refused; uint8, or finite
    floats, which become float32. An (N, F) array of uint8 is scaled to [0, 1]. y: (N,) integers,
    renumbered 0..C-1 in ascending order; the labels as they stood are the class names. Without a
    test set, a fifth of each class becomes one (``stratified_split``).
    """

    name = "npz"
    Options = NpzOptions
    summary = "your own arrays x, y (and x_test, y_test) in a .npz file; needs `path`"
    origin = "yours"

    options: NpzOptions

    @property
    def classes(self) -> None:
        return None

    @property
    def path(self) -> Path:
        return user_path(self.options.path)

    def where(self, root: Path) -> Path | None:
        with suppress(OSError):
            return self.path if self.path.is_file() else None
        return None

    def _stamp(self) -> Hashable:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return (self.path.absolute(), status.st_mtime_ns, status.st_size)

    def _load(self, root: Path) -> Dataset:
        path = self.path
        arrays = _read(path)
        x, y = _features(path, "x", arrays["x"]), _labels(path, "y", arrays["y"])
        _same_length(path, "x", x, "y", y)
        values, codes = np.unique(y, return_inverse=True)
        codes = codes.astype(np.int64)
        if len(values) < 2:
            raise DataError(f"{path}: y holds the one label {values[0]}; at least 2 are needed")
        names = tuple(str(value) for value in values)
        if "x_test" in arrays:
            x_test = _features(path, "x_test", arrays["x_test"])
            y_test = _labels(path, "y_test", arrays["y_test"])
            _same_length(path, "x_test", x_test, "y_test", y_test)
            if x_test.shape[1:] != x.shape[1:] or x_test.dtype != x.dtype:
                raise DataError(
                    f"{path}: x_test holds examples of {x_test.shape[1:]} {x_test.dtype}, "
                    f"x of {x.shape[1:]} {x.dtype}"
                )
            unknown = np.setdiff1d(y_test, values)
            if len(unknown):
                raise DataError(f"{path}: y_test holds the label {unknown[0]}, which y does not")
            parts = (x, codes, x_test, np.searchsorted(values, y_test).astype(np.int64))
        else:
            train, test = stratified_split(codes, f"{path}: y", names)
            parts = (x[train], codes[train], x[test], codes[test])
        tensors = [torch.from_numpy(part) for part in parts]
        if x.ndim == 2:
            tensors[0], tensors[2] = pixels(tensors[0]), pixels(tensors[2])
        x_train, y_train, x_held, y_held = tensors
        checksum = tensor_checksum(*tensors)
        return Dataset(self.name, x_train, y_train, x_held, y_held, len(names), names, checksum)


def read_array(path: Path, name: str) -> Array:
    """The array ``name`` of an archive, as ``Npz`` takes it; DataError if it is not there."""
    arrays = _read(path, (name,))
    return _features(path, name, arrays[name])


def _read(path: Path, needed: tuple[str, ...] = ("x", "y")) -> dict[str, Array]:
    if path.is_dir():
        raise DataError(f"{path}: is a directory; a .npz file is needed")
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if not path.is_file():
        raise DataError(f"{path}: is no regular file")
    arrays: dict[str, Array] = {}
    name = ""
    try:
        if not zipfile.is_zipfile(path):
            raise DataError(
                f"{path}: is not a .npz archive (or a truncated one); np.savez writes one"
            )
        # Opened here: numpy leaves a file open that it stumbles over.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            unpacked = sum(member.file_size for member in archive.zip.infolist())
            require_memory(unpacked, f"{path}: unpacked, it")
            for name in archive.files:
                if name not in ARRAYS:
                    hint = did_you_mean(name, ARRAYS, cutoff=0.6)
                    raise DataError(
                        f"{path}: unknown array {name!r}; allowed are {', '.join(ARRAYS)}{hint}"
                    )
            for name in archive.files:
                arrays[name] = archive[name]
                if not isinstance(arrays[name], np.ndarray):
                    raise DataError(f"{path}: {name!r} is no numpy array")
    except DataError:
        raise
    except Exception as error:  # numpy and zipfile raise whatever they stumble over
        which = f" array {name!r}" if name else ""
        detail = " ".join(str(error).split())
        reason = "holds Python objects" if "allow_pickle" in detail else f"is damaged: {detail}"
        raise DataError(f"{path}:{which} cannot be read: it {reason}") from error
    pairs = {"x_test": "y_test", "y_test": "x_test"}
    for name in (*needed, *pairs):
        if name not in arrays and (name in needed or pairs[name] in arrays):
            raise DataError(f"{path}: array {name!r} is missing")
    return arrays


def _features(path: Path, name: str, array: Array) -> Array:
    """``array`` as contiguous uint8 or float32, an image without channels given one."""
    if array.ndim not in (2, 3, 4):
        raise DataError(
            f"{path}: {name} has shape {array.shape}; allowed are (N, F), (N, H, W), (N, C, H, W)"
        )
    if 0 in array.shape:
        raise DataError(f"{path}: {name} has shape {array.shape} and so holds nothing")
    if array.ndim == 4 and array.shape[3] in CHANNELS and array.shape[1] not in CHANNELS:
        raise DataError(
            f"{path}: {name} has shape {array.shape}, which looks like (N, H, W, C); allowed is "
            f"(N, C, H, W): save {name}.transpose(0, 3, 1, 2)"
        )
    if array.dtype.kind != "f" and array.dtype != np.uint8:
        raise DataError(f"{path}: {name} has type {array.dtype}; allowed are uint8 and floats")
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        finite = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        if not finite.all():
            first = int(np.argmin(finite))
            raise DataError(f"{path}: {name}[{first}] holds a NaN or infinite value")
    if array.ndim == 3:
        array = array[:, None]
    return np.ascontiguousarray(array)


def _labels(path: Path, name: str, array: Array) -> Array:
    if array.ndim != 1:
        raise DataError(f"{path}: {name} has shape {array.shape}; labels have shape (N,)")
    if array.dtype.kind not in "iu":
        raise DataError(f"{path}: {name} has type {array.dtype}; labels are integers")
    return array


def _same_length(path: Path, x_name: str, x: Array, y_name: str, y: Array) -> None:
    if len(x) != len(y):
        raise DataError(f"{path}: {x_name} has {len(x)} examples, {y_name} has {len(y)}")
