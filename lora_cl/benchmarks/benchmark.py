"""A benchmark: a sequence of tasks, each made only when it is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lora_cl.data import DATASETS, Dataset, Source, pixels
from lora_cl.errors import ConfigError
from lora_cl.options import OptionsBase, choice
from lora_cl.seeding import seed_for

SCENARIOS = ("task", "domain", "class")

DatasetChoice: Any = choice({name: source.Options for name, source in DATASETS.items()})


@dataclass(frozen=True)
class Samples:
    """Inputs x (N, *input_shape) float32 and labels y (N,) int64, counted from 0 in each task."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Task:
    """One task. ``train`` and ``test`` make its samples afresh on every call.

    ``first_class`` is the number of classes in all the tasks before it: the task's label y is
    the class ``first_class + y`` of a class-incremental run.
    """

    id: int
    name: str
    classes: int
    first_class: int
    train: Callable[[], Samples]
    test: Callable[[], Samples]


class BenchmarkOptions(OptionsBase):
    """Options that every benchmark has: at most so many samples a task, drawn at random."""

    max_train_samples: int | None = Field(default=None, ge=1)
    max_test_samples: int | None = Field(default=None, ge=1)


class Benchmark(ABC):
    """A sequence of ``n_tasks`` tasks over one input shape.

    ``sources`` are the data sets in the order of ``dataset_options()``; ``load`` turns one into
    tensors on the run's device, and is called when the first samples are asked for. The
    constructor raises ConfigError for what can never work.
    """

    Options: ClassVar[type[BenchmarkOptions]]
    scenarios: ClassVar[tuple[str, ...]] = SCENARIOS
    summary: ClassVar[str]

    def __init__(
        self,
        options: Any,
        scenario: str,
        seed: int,
        sources: Sequence[Source],
        load: Callable[[Source], Dataset],
    ) -> None:
        self.options = options
        self.scenario = scenario
        self.seed = seed
        self.sources = list(sources)
        self._load = load
        self.check()

    @staticmethod
    def dataset_options(options: Any) -> list[Any]:
        """The options of the data sets that the benchmark draws on."""
        return [options.dataset]

    @property
    @abstractmethod
    def n_tasks(self) -> int: ...

    @property
    def input_shape(self) -> torch.Size:
        """The shape of one input."""
        return self.dataset(0).x_train.shape[1:]

    @abstractmethod
    def task_classes(self, index: int) -> int:
        """How many labels task ``index`` has."""

    @abstractmethod
    def task(self, index: int) -> Task: ...

    def check(self) -> None:
        """Refuses, with a ConfigError, options that do not fit the data or the scenario."""

    def dataset(self, index: int = 0) -> Dataset:
        return self._load(self.sources[index])

    def n_classes(self, index: int = 0) -> int:
        """The number of classes of data set ``index``, without loading it where that is known."""
        return self.sources[index].classes or self.dataset(index).classes

    def make_task(
        self, index: int, name: str, train: Callable[[], Samples], test: Callable[[], Samples]
    ) -> Task:
        """A task with the limits on samples applied."""

        def limited(make: Callable[[], Samples], limit: int | None, which: str) -> Samples:
            samples = make()
            if limit is None or len(samples.y) <= limit:
                return samples
            seed = seed_for(self.seed, "limit", which, index)
            chosen = permutation(len(samples.y), seed)[:limit].sort().values.to(samples.y.device)
            return Samples(samples.x[chosen], samples.y[chosen])

        return Task(
            id=index,
            name=name,
            classes=self.task_classes(index),
            first_class=self.first_class(index),
            train=lambda: limited(train, self.options.max_train_samples, "train"),
            test=lambda: limited(test, self.options.max_test_samples, "test"),
        )

    def first_class(self, index: int) -> int:
        return sum(self.task_classes(earlier) for earlier in range(index))


class WholeDataSet(Benchmark):
    """A benchmark whose every task is one whole data set, changed; `tasks` says how many."""

    @property
    def n_tasks(self) -> int:
        return int(self.options.tasks)

    def task_classes(self, index: int) -> int:
        return self.n_classes()

    def first_class(self, index: int) -> int:
        return index * self.n_classes()


def permutation(n: int, seed: int) -> Tensor:
    """A random permutation of 0..n-1, on the CPU."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def select_classes(x: Tensor, y: Tensor, classes: Sequence[int]) -> Samples:
    """The samples of ``classes``; the k-th of them gets label k."""
    labels = torch.full((int(y.max()) + 1 if len(y) else 1,), -1, dtype=torch.int64)
    for label, original in enumerate(classes):
        if original < len(labels):
            labels[original] = label
    local = labels.to(y.device)[y]
    index = torch.nonzero(local >= 0).squeeze(1)
    return Samples(pixels(x[index]), local[index])


def require(condition: bool, key: str, message: str) -> None:
    """Raises ConfigError for ``key`` unless ``condition`` holds."""
    if not condition:
        raise ConfigError(message, key=key)
