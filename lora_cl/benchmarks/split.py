"""Split: the classes of one data set, dealt to tasks of equal size (Split-MNIST and its kin)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lora_cl.benchmarks.benchmark import (
    Benchmark,
    BenchmarkOptions,
    DatasetChoice,
    Task,
    permutation,
    require,
)
from lora_cl.data import Dataset, pixels
from lora_cl.data.source import numbered
from lora_cl.errors import ConfigError
from lora_cl.seeding import seed_for


class SplitOptions(BenchmarkOptions):
    """`class_order`: fixed (0, 1, 2, ...), shuffled for every seed, or a list of the classes."""

    dataset: DatasetChoice
    """The data set whose classes are dealt to the tasks."""
    tasks: int = Field(default=5, ge=1)
    """Tasks, of equally many classes each."""
    class_order: (
        Literal["fixed", "shuffled"] | Annotated[list[Annotated[int, Field(ge=0)]], Field()]
    ) = "fixed"
    """Which classes come first: `fixed`, 0, 1, 2, ...; `shuffled`, another order for every
    seed; or a list of all classes."""


class Split(Benchmark):
    """Task k holds the k-th equal share of the classes. Domain-incremental: label 0..share-1."""

    Options: ClassVar[type[BenchmarkOptions]] = SplitOptions
    summary: ClassVar[str] = "the classes of one data set dealt to tasks of equal size"

    @property
    def n_tasks(self) -> int:
        return int(self.options.tasks)

    @cached_property
    def class_order(self) -> list[int]:
        order: Any = self.options.class_order
        if order == "fixed":
            return list(range(self.n_classes()))
        if order == "shuffled":
            seed = seed_for(self.seed, "class order")
            return [int(number) for number in permutation(self.n_classes(), seed)]
        return list(order)

    def check(self) -> None:
        classes = self.n_classes()
        order = self.options.class_order
        if isinstance(order, list):
            require(
                len(set(order)) == len(order),
                "benchmark.class_order",
                f"{order} names a class twice",
            )
            if max(order, default=0) >= classes:
                raise ConfigError(
                    f"{order} names a class that is not in {numbered(self.dataset().class_names)}",
                    "benchmark.class_order",
                )
            classes = len(order)
        tasks = self.n_tasks
        require(
            tasks <= classes,
            "benchmark.tasks",
            f"{tasks} tasks are more than the {classes} classes there are",
        )
        shares = [number for number in range(1, classes + 1) if classes % number == 0]
        require(
            classes % tasks == 0,
            "benchmark.tasks",
            f"{classes} classes do not divide into {tasks} equal tasks; "
            f"allowed: {', '.join(map(str, shares))}",
        )

    def task_classes(self, index: int) -> int:
        return len(self.class_order) // self.n_tasks

    def first_class(self, index: int) -> int:
        return index * self.task_classes(index)

    def task_data(self, index: int) -> tuple[Dataset, Sequence[int]]:
        share = self.task_classes(index)
        return self.dataset(), self.class_order[index * share : (index + 1) * share]

    def task(self, index: int) -> Task:
        data, classes = self.task_data(index)
        names = ", ".join(data.class_names[number] for number in classes)
        return self.make_task(
            index,
            name=names,
            train=lambda: self.samples(data, "train", pixels, classes),
            test=lambda: self.samples(data, "test", pixels, classes),
        )
