"""Gaussian class clusters: a benchmark for tests and smoke runs, made in milliseconds."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lora_cl.data.memory import require_memory
from lora_cl.data.source import Dataset, Source, tensor_checksum
from lora_cl.options import OptionsBase
from lora_cl.seeding import seed_for

Length = Annotated[int, Field(ge=1, le=4096)]


class SyntheticOptions(OptionsBase):
    """``separation`` is the distance of a class mean from the origin, in units of the standard
    deviation within a class; ``shape`` (C, H, W), where given, takes the place of ``features``."""

    classes: int = Field(10, ge=2, le=10_000)
    """Classes, a Gaussian cluster each."""
    features: int = Field(32, ge=1, le=1_000_000)
    """Numbers of an input."""
    shape: tuple[Length, Length, Length] | None = Field(None, strict=False)
    """(C, H, W) of an input, in the place of `features`."""
    train_per_class: int = Field(60, ge=1)
    """Training samples of each class."""
    test_per_class: int = Field(30, ge=1)
    """Test samples of each class."""
    separation: float = Field(3.0, ge=0, allow_inf_nan=False)
    """The distance of a class mean from the origin, in standard deviations within a class."""
    seed: int = Field(0, ge=0)
    """Of the data; that of the run changes nothing in them."""


class Synthetic(Source):
    """x ~ N(separation * u_c, I), each direction u_c drawn uniformly from the unit sphere.

    float32 (N, features) or (N, C, H, W); the examples come class by class. Two classes lie about
    separation * sqrt(2) apart, so the best classifier errs on a pair in a share
    Q(separation / sqrt(2)): 1.7 % at the default 3.
    """

    name = "synthetic"
    Options = SyntheticOptions
    summary = "Gaussian class clusters, made on the spot; for tests and smoke runs"
    origin = "bundled"

    options: SyntheticOptions

    @property
    def classes(self) -> int:
        return self.options.classes

    def where(self, root: Path) -> Path:
        return root

    def _load(self, root: Path) -> Dataset:
        options = self.options
        shape = options.shape if options.shape is not None else (options.features,)
        rows = options.classes * (1 + options.train_per_class + options.test_per_class)
        require_memory(4 * rows * prod(shape), f"{self.name}: {rows} rows of {prod(shape)} floats")
        means = self._normal("means", options.classes, prod(shape))
        means *= options.separation / means.norm(dim=1, keepdim=True)

        def draw(stream: str, per_class: int) -> tuple[Tensor, Tensor]:
            y = torch.arange(options.classes).repeat_interleave(per_class)
            return (means[y] + self._normal(stream, len(y), prod(shape))).reshape(-1, *shape), y

        train, test = draw("train", options.train_per_class), draw("test", options.test_per_class)
        names = tuple(str(label) for label in range(options.classes))
        checksum = tensor_checksum(*train, *test)
        return Dataset(self.name, *train, *test, options.classes, names, checksum)

    def _normal(self, stream: str, rows: int, columns: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed_for(self.options.seed, "synthetic", stream))
        return torch.randn(rows, columns, generator=generator)
