"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), from the binary version: the other one is a pickle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lora_cl.data.fetched import Contents, FetchedSource, kept
from lora_cl.data.links import Archive
from lora_cl.errors import DataError

PIXELS = 3 * 32 * 32

CIFAR10_FILES = (*(f"data_batch_{batch}.bin" for batch in range(1, 6)), "test_batch.bin")

CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


class CifarSource(FetchedSource):
    """uint8 (N, 3, 32, 32), 50 000 + 10 000.

    A file is a row of records: label bytes, of which the last is the class, then 3072 bytes of red,
    green and blue, each by rows.
    """

    folder = "."
    shape = (3, 32, 32)
    label_bytes: ClassVar[int]
    train_files: ClassVar[tuple[str, ...]]
    test_files: ClassVar[tuple[str, ...]]
    unpacked_folder: ClassVar[str]
    python_folder: ClassVar[str]  # where torchvision unpacks the pickles

    def mirrors(self) -> Sequence[str]:
        from torchvision.datasets import CIFAR10

        return [CIFAR10.url.rsplit("/", 1)[0] + "/"]

    def unusable(self, root: Path) -> str:
        why = {
            self.python_folder: "holds pickles, which are never loaded",
            self.unpacked_folder: "its files have no published checksum",
        }
        there = [name for name in why if (root / name).is_dir()]
        if not there or self.where(root) is not None:
            return ""
        told = f"{there[0]} is there, but {why[there[0]]}"
        return f" ({told}; the binary version, {self.archives[0].name}, is needed)"

    def parse(self, contents: Contents, folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return *self._read(contents, folder, self.train_files), *self._read(
            contents, folder, self.test_files
        )

    def _read(
        self, contents: Contents, folder: Path, names: tuple[str, ...]
    ) -> tuple[Tensor, Tensor]:
        record = self.label_bytes + PIXELS
        for name in names:
            if len(contents[name]) % record:
                raise DataError(f"{folder / name}: {len(contents[name])} bytes are no whole images")
            labels = contents[name][self.label_bytes - 1 :: record]
            if labels.max() >= self.classes:
                raise DataError(f"{folder / name}: a label is outside 0..{self.classes - 1}")
        rows = np.concatenate([contents[name].reshape(-1, record) for name in names])
        x = np.ascontiguousarray(rows[:, self.label_bytes :]).reshape(-1, 3, 32, 32)
        y = rows[:, self.label_bytes - 1].astype(np.int64)
        return torch.from_numpy(x), torch.from_numpy(y)


class Cifar10(CifarSource):
    """Ten classes of animals and vehicles, 6000 images each."""

    name = "cifar10"
    summary = "photographs of objects, 32x32 colour, 10 classes, 50 000 + 10 000"
    unpacked_folder = "cifar-10-batches-bin"
    python_folder = "cifar-10-batches-py"
    label_bytes = 1
    train_files = CIFAR10_FILES[:-1]
    test_files = CIFAR10_FILES[-1:]
    class_names = tuple(CIFAR10_NAMES.split())
    archives = (
        Archive(
            "cifar-10-binary.tar.gz",
            "c32a1d4ab5d03f1284b67883e8d87530",
            {f"cifar-10-batches-bin/{name}": name for name in CIFAR10_FILES},
            kept=True,
        ),
    )
    files = kept(archives)


class Cifar100(CifarSource):
    """A hundred classes (the fine labels), 600 images each."""

    name = "cifar100"
    summary = "photographs of objects, 32x32 colour, 100 classes, 50 000 + 10 000"
    unpacked_folder = "cifar-100-binary"
    python_folder = "cifar-100-python"
    label_bytes = 2
    train_files = ("train.bin",)
    test_files = ("test.bin",)
    class_names = tuple(CIFAR100_NAMES.split())
    archives = (
        Archive(
            "cifar-100-binary.tar.gz",
            "03b5dce01913d631647c71ecec9e9cb8",
            {f"cifar-100-binary/{name}": name for name in ("train.bin", "test.bin")},
            kept=True,
        ),
    )
    files = kept(archives)
