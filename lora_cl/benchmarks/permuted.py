"""Permuted: every task is the whole data set with its input features in another order."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from lora_cl.benchmarks.benchmark import (
    BenchmarkOptions,
    DatasetChoice,
    Samples,
    Task,
    WholeDataSet,
    permutation,
)
from lora_cl.data import pixels
from lora_cl.seeding import seed_for


class PermutedOptions(BenchmarkOptions):
    """`permute_first`: whether the first task is permuted too, or the data as they are."""

    dataset: DatasetChoice
    tasks: int = Field(default=10, ge=1)
    permute_first: bool = False


class Permuted(WholeDataSet):
    """Goodfellow et al. 2013, arXiv 1312.6211. Class-incremental: every task adds classes."""

    Options: ClassVar[type[BenchmarkOptions]] = PermutedOptions
    summary: ClassVar[str] = "the whole data set, its input features permuted anew for every task"

    def task(self, index: int) -> Task:
        data = self.dataset()

        def permuted(x: Tensor, y: Tensor) -> Samples:
            if index == 0 and not self.options.permute_first:
                return Samples(pixels(x), y)
            seed = seed_for(self.seed, "permutation", index)
            flat = x.flatten(1)
            order = permutation(flat.shape[1], seed).to(x.device)
            return Samples(pixels(flat[:, order]).reshape(x.shape), y)

        return self.make_task(
            index,
            name=f"permutation {index}",
            train=lambda: permuted(data.x_train, data.y_train),
            test=lambda: permuted(data.x_test, data.y_test),
        )
