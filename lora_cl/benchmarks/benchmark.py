"""A benchmark: a sequence of tasks, each made only when it is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lora_cl.benchmarks.holding_out import hold_out
from lora_cl.data import DATASETS, Dataset, Source
from lora_cl.data.source import named
from lora_cl.data.streaming import Inputs, Streamed, subset
from lora_cl.errors import ConfigError
from lora_cl.options import OptionsBase, choice
from lora_cl.seeding import seed_for
from lora_cl.text import one_line

SCENARIOS = ("task", "domain", "class")

Stream = Literal["auto"] | bool

MAX_BYTES = 2 * 1024**3
"""A data set whose training inputs take more than this as float32 is streamed."""

TOLD = 5
"""How many classes a message names before it only counts them."""

DatasetChoice: Any = choice(DATASETS)


Change = Callable[[Tensor], Tensor]
PARTS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Samples:
    """Inputs x (N, *input_shape) float32 and labels y (N,) int64, counted from 0 in each task."""

    x: Inputs
    y: Tensor

    def at(self, rows: Tensor) -> Samples:
        """Those at ``rows`` (n,)."""
        rows = rows.to(self.y.device)
        return Samples(subset(self.x, rows), self.y[rows])


@dataclass(frozen=True)
class Task:
    """One task. ``train`` and ``test`` make its samples afresh on every call, as does
    ``validation``: training samples held out, which are not among those of ``train``, if any are.

    ``first_class`` is the number of classes in all the tasks before it: the task's label y is
    the class ``first_class + y`` of a class-incremental run.
    """

    id: int
    name: str
    classes: int
    first_class: int
    train: Callable[[], Samples]
    test: Callable[[], Samples]
    validation: Callable[[], Samples] | None = None


class BenchmarkOptions(OptionsBase):
    """Options that every benchmark has: at most so many samples a task, drawn at random."""

    max_train_samples: int | None = Field(default=None, ge=1)
    """Training samples of every task at most, drawn by the seed; null: all."""
    max_test_samples: int | None = Field(default=None, ge=1)
    """Test samples of every task at most, drawn by the seed; null: all."""


class Benchmark(ABC):
    """A sequence of ``n_tasks`` tasks over one input shape.

    ``sources`` are the data sets in the order of ``dataset_options()``; ``load`` loads one when
    the first samples are asked for. Samples are on ``device``; those of a data set that does not
    fit, or with ``stream``, have inputs that are made batch by batch. ``validation`` is the share
    of every task's training samples that is held out. The constructor raises ConfigError for what
    can never work.
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
        device: torch.device,
        stream: Stream = "auto",
        validation: float = 0.0,
    ) -> None:
        self.options = options
        self.scenario = scenario
        self.seed = seed
        self.sources = list(sources)
        self._load = load
        self._on_device: dict[int, Dataset] = {}
        self.device = device
        self.stream = stream
        self.validation = validation
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

    def task_data(self, index: int) -> tuple[Dataset, Sequence[int]]:
        """The data set of task ``index``, and which of its classes: here all of the first one."""
        data = self.dataset()
        return data, range(data.classes)

    def class_names(self, index: int) -> list[str]:
        """What the labels of task ``index`` are called, in their order: numbers, where a benchmark
        without data sets gives no names."""
        if not self.sources:
            return [str(label) for label in range(self.task_classes(index))]
        data, classes = self.task_data(index)
        return [data.class_names[number] for number in classes]

    def dataset_key(self, index: int) -> str:
        """The key of the config that names the data of task ``index``."""
        return "benchmark.dataset"

    def check_samples(self, parts: tuple[str, ...] = ("training", "test")) -> None:
        """Refuses, with a ConfigError, data with which a task cannot be learned or measured.

        The data set must hold samples to train with and to test with of every class of every
        task: an accuracy over some of a task's classes is not the task's. (The limits on samples
        may leave out a class, since a random draw of the test set is a fair one.) Looks at labels
        only, of ``parts``, and at none where the benchmark makes its samples itself.
        """
        if not self.sources:
            return
        there: dict[int, dict[str, set[int]]] = {}
        for index in range(self.n_tasks):
            name = one_line(self.task(index).name, limit=60)
            data, classes = self.task_data(index)
            if id(data) not in there:
                found = {"training": data.y_train, "test": data.y_test}
                there[id(data)] = {part: set(torch.unique(found[part]).tolist()) for part in parts}
            for part, labels in there[id(data)].items():
                missing = [named(data.class_names, k) for k in classes if k not in labels]
                more = f" and {len(missing) - TOLD} more" if len(missing) > TOLD else ""
                require(
                    not missing,
                    self.dataset_key(index),
                    f"task {index} ({name}): {data.name} has no {part} samples of "
                    f"{', '.join(missing[:TOLD])}{more}",
                )

    def dataset(self, index: int = 0) -> Dataset:
        """Data set ``index``, on the device unless it is streamed."""
        if index not in self._on_device:
            data = self._load(self.sources[index])
            if not self.streams(data):
                data = replace(
                    data, **{name: getattr(data, name).to(self.device) for name in PARTS}
                )
            self._on_device[index] = data
        return self._on_device[index]

    def samples(
        self, data: Dataset, part: str, change: Change, classes: Sequence[int] | None = None
    ) -> Samples:
        """``samples_of`` on this benchmark's device, streamed or not."""
        return samples_of(data, part, change, classes, self.device, self.streams(data))

    def input_size(self, data: Dataset) -> int:
        """How many numbers an input made from ``data`` is."""
        return data.x_train.shape[1:].numel()

    def streams(self, data: Dataset) -> bool:
        """Whether inputs are made batch by batch: as told, or where they are many."""
        return streams(data, self.stream, self.input_size(data))

    def n_classes(self, index: int = 0) -> int:
        """The number of classes of data set ``index``, without loading it where that is known."""
        return self.sources[index].classes or self.dataset(index).classes

    def make_task(
        self, index: int, name: str, train: Callable[[], Samples], test: Callable[[], Samples]
    ) -> Task:
        """A task with the limits on samples applied, and then samples held out for validation."""

        def limited(make: Callable[[], Samples], limit: int | None, which: str) -> Samples:
            samples = make()
            if limit is None or len(samples.y) <= limit:
                return samples
            seed = seed_for(self.seed, "limit", which, index)
            return samples.at(permutation(len(samples.y), seed)[:limit].sort().values)

        def whole() -> Samples:
            return limited(train, self.options.max_train_samples, "train")

        def part(which: int) -> Samples:
            samples = whole()
            order = permutation(len(samples.y), seed_for(self.seed, "validation", index))
            return samples.at(hold_out(samples.y, self.validation, order)[which])

        return Task(
            id=index,
            name=name,
            classes=self.task_classes(index),
            first_class=self.first_class(index),
            train=(lambda: part(0)) if self.validation else whole,
            test=lambda: limited(test, self.options.max_test_samples, "test"),
            validation=(lambda: part(1)) if self.validation else None,
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


def of_classes(y: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Which of the labels y (N,) are in ``classes``, as indices (n,), and their new labels (n,):
    k for the k-th of ``classes``."""
    labels = torch.full((int(y.max()) + 1 if len(y) else 1,), -1, dtype=torch.int64)
    for label, original in enumerate(classes):
        if original < len(labels):
            labels[original] = label
    local = labels.to(y.device)[y]
    rows = torch.nonzero(local >= 0).squeeze(1)
    return rows, local[rows]


def streams(data: Dataset, stream: Stream, input_size: int) -> bool:
    """Whether a data set's inputs, of ``input_size`` numbers, are made batch by batch."""
    if stream != "auto":
        return stream
    return len(data.x_train) * max(input_size, data.x_train.shape[1:].numel()) * 4 > MAX_BYTES


def samples_of(
    data: Dataset,
    part: str,
    change: Change,
    classes: Sequence[int] | None,
    device: torch.device,
    stream: Stream,
) -> Samples:
    """``part`` (train or test) of ``data``, or, of ``classes``, those; the k-th gets label k.

    ``change`` makes float32 inputs of some rows of x, each by itself.
    """
    x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}").to(device)
    rows = None
    if classes is not None:
        rows, y = of_classes(y, classes)
    if not streams(data, stream, x.shape[1:].numel()):
        x = x.to(device)
        return Samples(change(x if rows is None else x.index_select(0, rows)), y)

    def make(index: Tensor) -> Tensor:
        chosen = x.index_select(0, index)
        if device.type == "cuda":  # From pinned memory the copy runs beside the arithmetic.
            chosen = chosen.pin_memory()
        return change(chosen.to(device, non_blocking=True))

    whole = Streamed(make, len(x), device)
    return Samples(whole if rows is None else subset(whole, rows), y)


def require(condition: bool, key: str, message: str) -> None:
    """Raises ConfigError for ``key`` unless ``condition`` holds."""
    if not condition:
        raise ConfigError(message, key=key)
