"""Rotated: every task is the whole data set, its images turned by another angle."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from lora_cl.benchmarks.benchmark import (
    BenchmarkOptions,
    DatasetChoice,
    Task,
    WholeDataSet,
    require,
)
from lora_cl.data import pixels


class RotatedOptions(BenchmarkOptions):
    """Task k of T is turned by k x `degrees` / T: evenly spaced, the first upright."""

    dataset: DatasetChoice
    """The data set whose images are turned."""
    tasks: int = Field(default=10, ge=1)
    """Angles, each a task with all classes; the first is upright."""
    degrees: float = Field(default=180.0, gt=0.0, le=360.0)
    """Task k of T is turned by k times this / T."""


def rotate(x: Tensor, degrees: float) -> Tensor:
    """Turns images (N, C, H, W) counter-clockwise, bilinear, zeros from outside; the same shape."""
    if degrees == 0.0:
        return x
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    height, width = x.shape[-2:]
    affine = torch.tensor(
        [[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]],
        dtype=x.dtype,
        device=x.device,
    )
    chunks = []
    for part in torch.split(x, 4096):
        grid = functional.affine_grid(
            affine.expand(len(part), 2, 3), list(part.shape), align_corners=False
        )
        chunks.append(functional.grid_sample(part, grid, align_corners=False))
    return torch.cat(chunks)


class Rotated(WholeDataSet):
    """Lopez-Paz & Ranzato 2017, arXiv 1706.08840. Class-incremental: every task adds classes."""

    Options: ClassVar[type[BenchmarkOptions]] = RotatedOptions
    summary: ClassVar[str] = "the whole data set, its images turned by another angle in every task"

    def task(self, index: int) -> Task:
        data = self.dataset()
        require(
            data.x_train.ndim == 4,
            "benchmark.dataset",
            f"rotation needs images, {data.name} has shape {tuple(data.x_train.shape[1:])}",
        )
        degrees = index * self.options.degrees / self.n_tasks

        def rotated(x: Tensor) -> Tensor:
            return rotate(pixels(x), degrees)

        return self.make_task(
            index,
            name=f"{degrees:g} degrees",
            train=lambda: self.samples(data, "train", rotated),
            test=lambda: self.samples(data, "test", rotated),
        )
