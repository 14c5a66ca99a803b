"""What a data set is, and what every source of one can do."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lora_cl.errors import DataError
from lora_cl.options import OptionsBase
from lora_cl.text import one_line


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory. Its tensors are shared between runs: never change them in place.

    ``x_train`` and ``x_test`` are (N, C, H, W) uint8 or float32, or (N, F) float32; ``y_train`` and
    ``y_test`` are (N,) int64 in [0, ``classes``). ``checksum`` is ``"sha256:..."`` of the content,
    the same wherever the files came from. With ``text``, x is (N, bytes) uint8: UTF-8, zeros after
    its end. A backbone that reads texts makes tokens of it: (N, tokens) int32, -1 after the last.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int
    class_names: tuple[str, ...]
    checksum: str
    text: bool = False

    @property
    def tokens(self) -> bool:
        """Whether inputs are the tokens of texts."""
        return self.x_train.dtype == torch.int32


def pixels(x: Tensor) -> Tensor:
    """uint8 in 0..255 becomes float32 in [0, 1]; float32 is returned as it is. Any shape."""
    if x.dtype == torch.uint8:
        return x.to(torch.float32).div_(255)
    return x


def as_bytes(x: Tensor) -> Tensor:
    """The uint8 that ``pixels`` makes x (any shape) of, bit for bit; x where none is."""
    if x.dtype != torch.float32:
        return x
    codes = (x * 255).round_().clamp_(0, 255).to(torch.uint8)
    same = torch.equal(pixels(codes).view(torch.int32), x.view(torch.int32))
    return codes if same else x


LONGEST_TEXT = 4096
"""Bytes of a text that are kept: more than most networks read."""


def text_rows(texts: Sequence[str]) -> Tensor:
    """(N, bytes) uint8: each text in UTF-8, cut to LONGEST_TEXT bytes, zeros after its end."""
    rows = [text.replace("\0", " ").encode("utf-8", "replace")[:LONGEST_TEXT] for text in texts]
    made = torch.zeros(len(rows), max(map(len, rows), default=0) or 1, dtype=torch.uint8)
    for row, content in zip(made, rows, strict=True):
        if content:
            row[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return made


def texts_of(rows: Tensor) -> list[str]:
    """The texts that ``text_rows`` made ``rows`` of."""
    contents = (row.numpy().tobytes().rstrip(b"\0") for row in rows)
    return [content.decode("utf-8", "ignore") for content in contents]


def tensor_checksum(*tensors: Tensor) -> str:
    """``"sha256:..."`` over dtype, shape and bytes of the tensors, in their order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return f"sha256:{digest.hexdigest()}"


def named(names: Sequence[str], number: int) -> str:
    """Class ``number`` as its file or folder calls it, and its number where that says more."""
    name = one_line(names[number], limit=60)
    return name if name == str(number) else f"{name} (class {number})"


def numbered(names: Sequence[str]) -> str:
    """All classes by the numbers that a config knows them by, for one line."""
    last = len(names) - 1
    if all(name == str(number) for number, name in enumerate(names)):
        return f"0..{last}"
    told = [f"{number} is {one_line(name, limit=30)}" for number, name in enumerate(names[:6])]
    rest = [f"... {last} is {one_line(names[last], limit=30)}"] if last >= len(told) else []
    return f"0..{last}: {', '.join(told + rest)}"


class NoOptions(OptionsBase):
    """The options of a data set that has none."""


def say_nothing(_: str) -> None:
    """The listener of those who do not want to hear how a fetch goes."""


class Source(ABC):
    """Where one data set comes from."""

    name: ClassVar[str]
    Options: ClassVar[type[OptionsBase]] = NoOptions
    summary: ClassVar[str]
    origin: ClassVar[Literal["bundled", "fetched", "yours"]]

    def __init__(self, options: OptionsBase) -> None:
        if not isinstance(options, self.Options):
            raise TypeError(f"{self.name} takes {self.Options.__name__}, not {type(options)}")
        self.options = options

    @property
    @abstractmethod
    def classes(self) -> int | None:
        """The number of classes if it is known without loading; None: only the files tell."""

    @abstractmethod
    def where(self, root: Path) -> Path | None:
        """Where a usable copy lies, or None. Looks at names and sizes only.

        A bundled data set needs no file and answers with ``root``.
        """

    def fetch(self, root: Path, say: Callable[[str], None] = say_nothing) -> Path:
        """Make sure that a verified copy is there and return where; ``say`` hears each step.

        Raises DataError if it cannot be had.
        """
        self.load(root)
        return self.where(root) or root

    def outline(self, root: Path) -> tuple[Dataset, str]:
        """What a config can be checked against, and in words what was not looked at, if anything.

        Shapes, labels and class names are as ``load`` would give them. Inputs are not, where they
        are not here yet or cost too much to read. Fetches nothing; raises DataError as ``load``.
        """
        return self.load(root), ""

    def load(self, root: Path) -> Dataset:
        """The data set, from memory, from the cache under ``root``, or fetched to it; verified.

        Raises DataError, whose message names the file, or every way that was tried.
        """
        with self.reading():
            key = self._key(root)
        if key not in _loaded:
            return self._load_anew(root)
        _loaded.move_to_end(key)
        return _loaded[key]

    def _load_anew(self, root: Path) -> Dataset:
        """As ``load``, but never from memory, and into it."""
        with self.reading():
            dataset = self._load(root)
            _loaded[self._key(root)] = dataset
        while len(_loaded) > 1 and sum(map(_bytes, _loaded.values())) > _KEEP_BYTES:
            _loaded.popitem(last=False)
        return dataset

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What the system refuses inside is a DataError that names the file."""
        try:
            yield
        except OSError as error:
            place = error.filename or self.name
            raise DataError(f"{place}: cannot be read: {error.strerror or error}") from None

    def _key(self, root: Path) -> Hashable:
        return type(self), self.options, root.absolute(), self._stamp()

    @abstractmethod
    def _load(self, root: Path) -> Dataset: ...

    def _stamp(self) -> Hashable:
        """Changes when files that a person may edit between two loads have changed."""
        return None


def shapes_only(
    name: str, shape: Sequence[int], y_train: Tensor, y_test: Tensor, class_names: tuple[str, ...]
) -> Dataset:
    """A data set whose inputs, uint8 (N, *shape), are zeros that take no memory."""
    pixel = torch.zeros(1, dtype=torch.uint8).reshape([1] * (1 + len(shape)))
    x_train, x_test = (pixel.expand(len(y), *shape) for y in (y_train, y_test))
    return Dataset(name, x_train, y_train, x_test, y_test, len(class_names), class_names, "")


def texts_unseen(name: str, class_names: tuple[str, ...]) -> tuple[Dataset, str]:
    """The outline of a set of texts that is not here yet: an empty one of each class."""
    y, x = torch.arange(len(class_names)), text_rows([""] * len(class_names))
    known = Dataset(name, x, y, x, y, len(class_names), class_names, "", text=True)
    return known, f"{name} is not here yet: checked without it"


# Several runs in one process share what they load; a sequence of data sets fits, too.
_loaded: OrderedDict[Hashable, Dataset] = OrderedDict()
_KEEP_BYTES = 512 * 1024**2


def _bytes(dataset: Dataset) -> int:
    tensors = (dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
