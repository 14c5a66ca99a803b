"""The benchmark of a finished run, as its record describes it: known without a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from lora_cl.benchmarks.benchmark import Benchmark, Samples, Task
from lora_cl.errors import DataError


@dataclass(frozen=True)
class TaskNames:
    """A task by its name and those of its classes, in the order of the labels."""

    name: str
    classes: tuple[str, ...]


def task_names(benchmark: Benchmark) -> list[TaskNames]:
    """All tasks of ``benchmark`` by name."""
    return [
        TaskNames(benchmark.task(index).name, tuple(benchmark.class_names(index)))
        for index in range(benchmark.n_tasks)
    ]


class Recorded(Benchmark):
    """The tasks ``names`` over inputs of ``shape``; data sets are loaded when ``task`` is asked
    for, or samples of ``outlined`` are, by the benchmark that ``real`` makes then.
    """

    summary = "the tasks of a finished run"

    def __init__(
        self,
        names: Sequence[TaskNames],
        shape: torch.Size,
        scenario: str,
        seed: int,
        device: torch.device,
        real: Callable[[], Benchmark],
    ) -> None:
        self.names, self.shape, self.real = list(names), shape, real
        self._firsts = [0, *accumulate(len(task.classes) for task in self.names)]
        super().__init__(None, scenario, seed, [], self._no_source, device)

    @property
    def n_tasks(self) -> int:
        return len(self.names)

    @property
    def input_shape(self) -> torch.Size:
        return self.shape

    def task_classes(self, index: int) -> int:
        return len(self.names[index].classes)

    def first_class(self, index: int) -> int:
        return self._firsts[index]

    def class_names(self, index: int) -> list[str]:
        return list(self.names[index].classes)

    def task(self, index: int) -> Task:
        real = self.real()
        if index >= real.n_tasks:
            raise DataError(f"task {index} is not of the run's config: its samples are not known")
        return real.task(index)

    def outlined(self, index: int) -> Task:
        """As ``task``, but no data set is looked for before its samples are asked for."""

        def train() -> Samples:
            return self.task(index).train()

        def test() -> Samples:
            return self.task(index).test()

        first = self.first_class(index)
        return Task(index, self.names[index].name, self.task_classes(index), first, train, test)

    def _no_source(self, source: Any) -> Any:
        raise LookupError(f"a recorded benchmark has no data set {source}")
