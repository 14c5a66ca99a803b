"""Your own texts, in CSV, JSON lines or Parquet."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lora_cl.data.source import Dataset, Source, tensor_checksum, text_rows
from lora_cl.data.split import stratified_split
from lora_cl.errors import DataError
from lora_cl.files import read_regular
from lora_cl.options import OptionsBase, PathOption, user_path
from lora_cl.text import did_you_mean, one_line

SUFFIXES = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}

MAX_BYTES = 2**28
"""Of a .txt file."""


class TextOptions(OptionsBase):
    """``path`` of the file, or of a folder that holds ``train`` and ``test`` in one of the formats;
    ``text`` and ``label`` are the names of its columns."""

    path: PathOption
    """A file of CSV, JSON lines or Parquet, or a folder that holds `train` and `test` in one of
    them."""
    text: str = "text"
    """The column of the texts."""
    label: str = "label"
    """The column of the labels."""


class TextFiles(Source):
    """A table with a column of texts and one of labels, numbers or words: the classes in their
    order. CSV, TSV, JSON lines or Parquet, by the file's ending. Without a test file a fifth of
    each class becomes the test set (``stratified_split``)."""

    name = "text"
    Options = TextOptions
    summary = "your own texts in CSV, JSON lines or Parquet; needs `path`"
    origin = "yours"

    options: TextOptions

    @property
    def classes(self) -> None:
        return None

    def where(self, root: Path) -> Path | None:
        path = user_path(self.options.path)
        return path if path.exists() else None

    def _stamp(self) -> Hashable:
        return tuple((f, (s := f.stat()).st_mtime_ns, s.st_size) for f in self._files() if f)

    def _files(self) -> tuple[Path, Path | None]:
        path = user_path(self.options.path)
        if not path.is_dir():
            return path, None
        parts = []
        for part in ("train", "test"):
            found = [path / f"{part}{suffix}" for suffix in SUFFIXES]
            there = [file for file in found if file.is_file()]
            if len(there) != 1:
                raise DataError(
                    f"{path}: holds {len(there) or 'no'} file{'s' * (len(there) > 1)} called "
                    f"{part} with one of the endings {', '.join(SUFFIXES)}; one is needed"
                )
            parts += there
        return parts[0], parts[1]

    def _load(self, root: Path) -> Dataset:
        train, test = self._files()
        texts, labels = self._read(train)
        texts_test, labels_test = self._read(test) if test else ([], [])
        names = _classes(labels)
        numbers = {name: number for number, name in enumerate(names)}
        y = np.array([numbers[label] for label in labels], dtype=np.int64)
        if test is None:
            kept, held = stratified_split(y, self.name, names)
            texts, texts_test = _taken(texts, kept), _taken(texts, held)
            y, y_test = y[kept], y[held]
        else:
            unknown = [label for label in labels_test if label not in numbers]
            if unknown:
                raise DataError(
                    f"{test}: label {one_line(unknown[0], limit=40)!r} is not among the "
                    f"{len(names)} of {train.name}"
                )
            y_test = np.array([numbers[label] for label in labels_test], dtype=np.int64)
        parts = (
            text_rows(texts),
            torch.from_numpy(y),
            text_rows(texts_test),
            torch.from_numpy(y_test),
        )
        return Dataset(self.name, *parts, len(names), names, _checksum(parts, names), text=True)

    def _read(self, path: Path) -> tuple[list[str], list[str]]:
        texts, labels = _columns(path, _table(path), [self.options.text, self.options.label])
        if not texts:
            raise DataError(f"{path}: holds no rows")
        return texts, labels


def read_column(path: Path, column: str) -> list[str]:
    """The texts of a table's ``column``, or, of a .txt file, its lines; DataError if none."""
    if path.suffix.lower() == ".txt":
        try:
            texts = read_regular(path, MAX_BYTES).decode("utf-8", "replace").splitlines()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    else:
        (texts,) = _columns(path, _table(path), [column])
    if not texts:
        raise DataError(f"{path}: holds no rows")
    return texts


def _columns(path: Path, table: Any, keys: list[str]) -> list[list[str]]:
    """Each of the columns ``keys`` as texts; DataError where one is missing or has a gap."""
    known = [str(name) for name in table.columns]
    found = []
    for key in keys:
        if key not in known:
            held = one_line(", ".join(known), limit=120)
            raise DataError(
                f"{path}: has no column {key!r}; it has {held}{did_you_mean(key, known)}"
            )
        column = table[key]
        if bool(column.isna().any()):
            row = int(np.flatnonzero(column.isna().to_numpy())[0])
            raise DataError(f"{path}: row {row + 1} has no {key}")
        found.append([str(value) for value in column])
    return found


def _table(path: Path) -> Any:
    import pandas as pd  # over a second to import: only when asked for

    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"{path}: its ending is none of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path}: is no regular file")
    try:
        if kind == "csv":
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
        if kind == "json":
            return pd.read_json(path, lines=True, dtype=False, encoding="utf-8")
        return pd.read_parquet(path)
    except ImportError:
        raise DataError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from None
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read: {one_line(error)}") from None


def _classes(labels: list[str]) -> tuple[str, ...]:
    """The distinct labels: numbers by value, words by the alphabet."""
    distinct = set(labels)
    if all(label.isdecimal() for label in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct))


def _taken(texts: list[str], rows: NDArray[np.int64]) -> list[str]:
    return [texts[row] for row in rows]


def _checksum(parts: tuple[torch.Tensor, ...], names: tuple[str, ...]) -> str:
    whole = hashlib.sha256("\n".join((tensor_checksum(*parts), *names)).encode())
    return f"sha256:{whole.hexdigest()}"
