"""What a tuner may see of a benchmark: its first tasks, and of these no test sample."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from lora_cl.benchmarks.benchmark import Benchmark, Samples, Task
from lora_cl.data import Dataset
from lora_cl.errors import ConfigError, DataError


class Trial(Benchmark):
    """The first ``count`` tasks of ``whole``, tested on the training samples that it holds out."""

    def __init__(self, whole: Benchmark, count: int | None) -> None:
        self.whole, self.count = whole, count or whole.n_tasks
        self.options, self.scenario, self.seed = whole.options, whole.scenario, whole.seed
        self.sources, self.device, self.stream = whole.sources, whole.device, whole.stream
        self.validation = 0.0  # What is held out is the test set here, and is measured once.

    @property
    def n_tasks(self) -> int:
        return min(self.count, self.whole.n_tasks)

    @property
    def input_shape(self) -> torch.Size:
        return self.whole.input_shape

    def task_classes(self, index: int) -> int:
        return self.whole.task_classes(index)

    def first_class(self, index: int) -> int:
        return self.whole.first_class(index)

    def dataset(self, index: int = 0) -> Dataset:
        return self.whole.dataset(index)

    def dataset_key(self, index: int) -> str:
        return self.whole.dataset_key(index)

    def task_data(self, index: int) -> tuple[Dataset, Any]:
        return self.whole.task_data(index)

    def check_samples(self, parts: tuple[str, ...] = ("training",)) -> None:
        super().check_samples(parts)

    def task(self, index: int) -> Task:
        task = self.whole.task(index)
        held_out = task.validation
        if held_out is None:
            raise ConfigError("nothing is held out to measure a trial by", "validation")

        def test() -> Samples:
            samples = held_out()
            if not len(samples.y):
                raise DataError(f"task {index}: has too few samples to hold any out for a trial")
            return samples

        return replace(task, test=test, validation=None)


def without_test(data: Dataset) -> Dataset:
    """``data`` with no test sample in it, so that nothing can be chosen by one."""
    return replace(data, x_test=data.x_test[:0], y_test=data.y_test[:0])
