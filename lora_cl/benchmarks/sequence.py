"""Sequence: different data sets in turn, brought to one size."""

from __future__ import annotations

from collections.abc import Sequence as Several
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from lora_cl.benchmarks.benchmark import (
    Benchmark,
    BenchmarkOptions,
    DatasetChoice,
    Task,
    require,
)
from lora_cl.data import Dataset, pixels


class SequenceOptions(BenchmarkOptions):
    """The data sets, one a task: all of texts, or all of images, which are scaled to `size` x
    `size` with `channels` channels."""

    datasets: Annotated[list[DatasetChoice], Field(min_length=1)]
    """A data set for each task, in order: all of texts, or all of images."""
    size: int = Field(default=28, ge=1, le=1024)
    """Height and width in pixels to which the images of all are scaled."""
    channels: int = Field(default=1, ge=1, le=3)
    """Channels that the images of all are given."""


def resized(x: Tensor, size: int, channels: int) -> Tensor:
    """Images (N, C, H, W) as (N, channels, size, size): grey by the mean, colour by repeating."""
    if x.shape[1] != channels:
        grey = x.mean(dim=1, keepdim=True)
        x = grey if channels == 1 else grey.expand(-1, channels, -1, -1)
    if x.shape[-2:] != (size, size):
        x = functional.interpolate(x, (size, size), mode="bilinear", antialias=True)
    return x.contiguous()


class Sequence(Benchmark):
    """One data set a task; domain-incremental only where all have as many classes."""

    Options: ClassVar[type[BenchmarkOptions]] = SequenceOptions
    summary: ClassVar[str] = "different data sets in turn, brought to one size"

    @staticmethod
    def dataset_options(options: Any) -> list[Any]:
        return list(options.datasets)

    @property
    def n_tasks(self) -> int:
        return len(self.sources)

    @property
    def input_shape(self) -> torch.Size:
        return self._shape(self.dataset(0))

    def _shape(self, data: Dataset) -> torch.Size:
        if data.tokens:
            return data.x_train.shape[1:]
        return torch.Size((self.options.channels, self.options.size, self.options.size))

    def task_classes(self, index: int) -> int:
        return self.n_classes(index)

    def input_size(self, data: Dataset) -> int:
        return self._shape(data).numel()

    def task_data(self, index: int) -> tuple[Dataset, Several[int]]:
        data = self.dataset(index)
        return data, range(data.classes)

    def dataset_key(self, index: int) -> str:
        return f"benchmark.datasets.{index}"

    def check(self) -> None:
        counts = [self.n_classes(index) for index in range(self.n_tasks)]
        require(
            self.scenario != "domain" or len(set(counts)) == 1,
            "scenario",
            f"domain-incremental needs the same labels in every task; "
            f"the data sets have {', '.join(map(str, counts))} classes",
        )

    def task(self, index: int) -> Task:
        data = self.dataset(index)
        require(
            data.x_train.ndim == 4 or data.tokens,
            self.dataset_key(index),
            f"a sequence needs images or texts, {data.name} has shape "
            f"{tuple(data.x_train.shape[1:])}",
        )

        def made(x: Tensor) -> Tensor:
            if data.tokens:
                return x
            return resized(pixels(x), self.options.size, self.options.channels)

        return self.make_task(
            index,
            name=data.name,
            train=lambda: self.samples(data, "train", made),
            test=lambda: self.samples(data, "test", made),
        )
