"""Street View House Numbers (Netzer et al. 2011)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lora_cl.data.fetched import Contents, FetchedSource, kept
from lora_cl.data.links import Archive
from lora_cl.errors import DataError

SUMS = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}


class Svhn(FetchedSource):
    """uint8 (N, 3, 32, 32), 10 classes, 73 257 + 26 032; the file's label 10 is the digit 0.

    The files lie in ``root`` itself, where torchvision puts them.
    """

    name = "svhn"
    summary = "house numbers in street photographs, 32x32 colour, 10 classes, 73 257 + 26 032"
    folder = "."
    shape = (3, 32, 32)
    class_names = tuple("0123456789")
    archives = tuple(Archive(name, md5, {name: name}, kept=True) for name, md5 in SUMS.items())
    files = kept(archives)

    def mirrors(self) -> Sequence[str]:
        from torchvision.datasets import SVHN

        return [SVHN.split_list["train"][0].rsplit("/", 1)[0] + "/"]

    def parse(self, contents: Contents, folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        train, test = (_read(contents[file.name], folder / file.name) for file in self.files)
        return *train, *test


def _read(content: np.typing.NDArray[np.uint8], path: Path) -> tuple[Tensor, Tensor]:
    from scipy.io import loadmat

    try:
        held = loadmat(io.BytesIO(content.data), variable_names=["X", "y"])
        images, labels = held["X"], held["y"].ravel().astype(np.int64)
    except Exception as error:  # scipy raises whatever its parser stumbles over
        detail = " ".join(str(error).split())
        raise DataError(f"{path}: is no readable MATLAB file: {detail}") from error
    if images.shape != (32, 32, 3, len(labels)) or images.dtype != np.uint8:
        raise DataError(f"{path}: X is {images.shape} {images.dtype} for {len(labels)} labels")
    if labels.min() < 1 or labels.max() > 10:
        raise DataError(f"{path}: a label is outside 1..10")
    # (H, W, C, N) -> (N, C, H, W)
    x = np.ascontiguousarray(images.transpose(3, 2, 0, 1))
    return torch.from_numpy(x), torch.from_numpy(labels % 10)
