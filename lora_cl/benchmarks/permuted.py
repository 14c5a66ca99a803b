"""Permuted: every task is the whole data set with its input features in another order."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from lora_cl.benchmarks.benchmark import (
    BenchmarkOptions,
    DatasetChoice,
    Task,
    WholeDataSet,
    permutation,
    require,
)
from lora_cl.data import pixels
from lora_cl.seeding import seed_for


class PermutedOptions(BenchmarkOptions):
    """`permute_first`: whether the first task is permuted too, or the data as they are."""

    dataset: DatasetChoice
    """The data set whose inputs are permuted."""
    tasks: int = Field(default=10, ge=1)
    """Permutations, each a task with all classes."""
    permute_first: bool = False
    """Whether the first task is permuted as well, or the data as they are."""


class Permuted(WholeDataSet):
    """Goodfellow et al. 2013, arXiv 1312.6211. Class-incremental: every task adds classes."""

    Options: ClassVar[type[BenchmarkOptions]] = PermutedOptions
    summary: ClassVar[str] = "the whole data set, its input features permuted anew for every task"

    def task(self, index: int) -> Task:
        data = self.dataset()
        message = (
            f"permutes features, and {data.name} holds texts: its words would lose their order"
        )
        require(not data.tokens, "benchmark.dataset", message)
        features = data.x_train[0].numel()
        order = permutation(features, seed_for(self.seed, "permutation", index)).to(self.device)

        def permuted(x: Tensor) -> Tensor:
            x = pixels(x)
            if index == 0 and not self.options.permute_first:
                return x
            return x.flatten(1).index_select(1, order).reshape(x.shape)

        return self.make_task(
            index,
            name=f"permutation {index}",
            train=lambda: self.samples(data, "train", permuted),
            test=lambda: self.samples(data, "test", permuted),
        )
