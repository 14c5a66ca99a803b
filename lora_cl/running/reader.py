"""Inputs that people have, as a run's network takes them: images, arrays and texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from lora_cl.data import Dataset, data_root, path_of, pixels
from lora_cl.data.images import FORMATS, read_image, refusing_bombs
from lora_cl.data.npz import read_array
from lora_cl.data.source import tensor_checksum, text_rows
from lora_cl.data.text_files import SUFFIXES, read_column
from lora_cl.errors import DataError
from lora_cl.models import BACKBONES, encoded


class Reader:
    """Prepares inputs as those of the run were: pixels in [0, 1], images of its size, tokens.

    What a benchmark does to tell its tasks apart, such as to permute or to turn, is not done.
    """

    def __init__(
        self, model: Any, shape: torch.Size, device: torch.device, data_dir: Path | None
    ) -> None:
        self.model, self.shape, self.device = model, shape, device
        self.data_dir = data_dir
        self.texts = BACKBONES[model.name].reads_text

    def __call__(self, given: Any) -> Tensor:
        """The inputs (N, *shape) of texts or paths (a list), or of an array or tensor: uint8, or
        floats as they are. DataError for anything else."""
        if isinstance(given, Tensor | np.ndarray):
            return self._of_array(torch.as_tensor(given), "the array")
        if not isinstance(given, list | tuple) or not all(isinstance(g, str | Path) for g in given):
            wanted = "texts" if self.texts else "paths"
            raise DataError(
                f"inputs are an array, or a list of {wanted}, not {type(given).__name__}"
            )
        if self.texts and all(isinstance(one, str) for one in given):
            return self._of_texts(cast("list[str]", list(given)))
        return self.files([path_of("file", one) for one in given])[1]

    def files(self, paths: Sequence[Path], column: str = "text") -> tuple[list[str], Tensor]:
        """What is in files: the name of each input, and all inputs (N, *shape).

        An image is one input, named as its file. The rows of a table's ``column`` of texts, or of
        ``x`` in an .npz file, are named ``file:row``, counted from 0.
        """
        names: list[str] = []
        found: list[Tensor] = []
        for path in paths:
            x = self._of_file(path, column)
            one = path.suffix.lower() in FORMATS
            names += [str(path)] if one else [f"{path}:{row}" for row in range(len(x))]
            found.append(x)
        if not found:
            raise DataError("no files: nothing to answer for")
        return names, torch.cat(found)

    def _of_file(self, path: Path, column: str) -> Tensor:
        suffix = path.suffix.lower()
        allowed = [*SUFFIXES, ".txt"] if self.texts else [".npz", *FORMATS]
        if suffix not in allowed:
            raise DataError(f"{path}: its ending is none of {', '.join(allowed)}")
        if self.texts:
            return self._of_texts(read_column(path, column))
        if suffix == ".npz":
            return self._of_array(torch.from_numpy(read_array(path, "x")), str(path))
        if len(self.shape) != 3 or self.shape[0] not in (1, 3):
            raise DataError(f"{path}: the network takes inputs of {tuple(self.shape)}, not images")
        channels, height, width = self.shape
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        with refusing_bombs():
            image = read_image(path, (height, width), 1 if channels == 1 else 3)
        x = torch.from_numpy(image).reshape(1, height, width, channels)
        return self._of_array(x.permute(0, 3, 1, 2), str(path))

    def _of_array(self, x: Tensor, name: str) -> Tensor:
        if self.texts and x.dtype != torch.int32:
            raise DataError(f"{name}: the network takes texts, not numbers")
        if x.dim() == 3 and len(self.shape) == 3 and self.shape[0] == 1:
            x = x[:, None]
        if x.dtype != torch.uint8 and not x.is_floating_point() and not self.texts:
            raise DataError(f"{name}: has type {str(x.dtype)[6:]}; allowed are uint8 and floats")
        if x.dim() == 0 or x.shape[1:] != self.shape or not len(x):
            wanted = ", ".join(["N", *map(str, self.shape)])
            raise DataError(f"{name}: has shape {tuple(x.shape)}; ({wanted}) is needed")
        if x.is_floating_point():
            x = x.to(torch.float32)
            if not bool(torch.isfinite(x).all()):
                raise DataError(f"{name}: holds a NaN or infinite value")
        return pixels(x).to(self.device)

    def _of_texts(self, texts: list[str]) -> Tensor:
        rows, y = text_rows(texts), torch.zeros(len(texts), dtype=torch.int64)
        # Tokens are kept in memory by this sum.
        content = tensor_checksum(rows)
        given = Dataset("given", rows, y, rows[:0], y[:0], 1, ("",), content, text=True)
        return encoded(self.model, given, data_root(self.data_dir)).x_train.to(self.device)
