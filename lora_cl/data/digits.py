"""The handwritten digits that ship inside scikit-learn: nothing to download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lora_cl.data.source import Dataset, Source, tensor_checksum
from lora_cl.data.split import stratified_split
from lora_cl.errors import DataError


class Digits(Source):
    """1797 images of 8 x 8 pixels, 0..16 scaled to [0, 1]: float32 (N, 1, 8, 8), 10 classes.

    The test half of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998),
    split 1438/359 by ``stratified_split``, the same split for every seed.
    """

    name = "digits"
    summary = "handwritten digits, 8x8 grey, 10 classes, 1438 + 359 (inside scikit-learn)"
    origin = "bundled"

    @property
    def classes(self) -> int:
        return 10

    def where(self, root: Path) -> Path:
        return root

    def _load(self, root: Path) -> Dataset:
        from sklearn.datasets import load_digits  # over a second to import: only when asked for

        images, labels = load_digits(return_X_y=True)
        if images.shape != (1797, 64) or labels.shape != (1797,):
            raise DataError(f"digits: scikit-learn holds {images.shape}, expected (1797, 64)")
        x = torch.from_numpy((images / 16).astype(np.float32).reshape(-1, 1, 8, 8))
        y = torch.from_numpy(labels.astype(np.int64))
        names = tuple(str(digit) for digit in range(10))
        split = stratified_split(y.numpy(), self.name, names)
        train, test = (torch.from_numpy(part) for part in split)
        parts = (x[train], y[train], x[test], y[test])
        return Dataset(self.name, *parts, 10, names, tensor_checksum(*parts))
