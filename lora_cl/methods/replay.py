"""Replay: samples of earlier tasks are kept and trained on again (Robins 1995; Chaudhry et al.
2019, arXiv 1902.10486)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lora_cl.benchmarks import Task, permutation
from lora_cl.data import as_bytes, pixels
from lora_cl.methods.method import Fit, Size, task_cross_entropy
from lora_cl.methods.shared import SharedBackbone, SharedBackboneOptions
from lora_cl.models import TaskNetwork
from lora_cl.options import OptionsBase


class ReplayOptions(SharedBackboneOptions):
    """`memory`: balanced keeps `per_class` samples of every class of every task; reservoir keeps
    `size` of all samples ever seen, each equally likely. `weighting`: fixed, the memory's loss
    weighs `memory_share` and the new samples' the rest; per-task, at the k-th task 1 - 1/k and 1/k
    (van de Ven et al. 2022).
    """

    memory: Literal["balanced", "reservoir"] = "balanced"
    """`per_class` random samples of every class of every task, or a uniform sample of all ever
    seen."""
    per_class: Annotated[int, Field(ge=1)] = 100
    """Samples per class and task of `balanced`."""
    size: Annotated[int, Field(ge=1)] = 1000
    """Samples of `reservoir`."""
    weighting: Literal["fixed", "per-task"] = "fixed"
    """The memory's loss weighs `memory_share`, or 1 - 1/k at the k-th task (`per-task`)."""
    memory_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """What the memory's loss weighs with `fixed`; new samples weigh the rest."""


class Replay(SharedBackbone):
    """Every batch comes with one as large from the memory; each sample answers by its own head."""

    Options: ClassVar[type[OptionsBase]] = ReplayOptions
    summary: ClassVar[str] = "every batch comes with one of stored samples of earlier tasks"
    trains_earlier_heads: ClassVar[bool] = True

    @classmethod
    def sized_by(cls, options: Any) -> Size | None:
        return Size("per_class" if options.memory == "balanced" else "size", most=2**24)

    def learn(self, task: Task, fit: Fit) -> None:
        fit([task])
        self.kept.pop("step")
        self.remember(task)

    @contextmanager
    def view_together(self, tasks: Sequence[Task]) -> Iterator[TaskNetwork]:
        """All tasks so far, side by side, since the memory has samples of all of them."""
        yield self.task_network(self.learned)

    def start_fit(self, tasks: Sequence[Task], network: TaskNetwork) -> None:
        self.set_step(0)
        offsets = [network.offsets[task_id] for task_id in self.learned]
        self.offsets = torch.tensor(offsets, device=self.network.device)

    def after_step(self, step: int, total_steps: int) -> None:
        self.set_step(step)

    def set_step(self, step: int) -> None:
        """The memory's batches are drawn by the step, so it is part of the state."""
        seed = self.seed_for("memory batch", self.learned[-1], step)
        self.generator = torch.Generator().manual_seed(seed)
        self.kept["step"] = torch.tensor(step)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        if "step" in self.kept:
            self.set_step(int(self.kept["step"]))

    def loss(self, network: TaskNetwork, x: Tensor, y: Tensor) -> Tensor:
        if "memory.y" not in self.kept:
            return super().loss(network, x, y)
        old_x, old_y = self.draw(len(x))
        logits = network(torch.cat([x, old_x]))
        new = task_cross_entropy(network, logits[: len(x)], y)
        old = task_cross_entropy(network, logits[len(x) :], old_y)
        o = self.options
        share = o.memory_share if o.weighting == "fixed" else 1 - 1 / len(self.learned)
        return (1 - share) * new + share * old

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """``count`` samples of the memory, with replacement: inputs, and outputs of the network
        that sees all tasks. The same at the same step, whatever happened before, and whether they
        are drawn at once or in parts."""
        y = self.kept["memory.y"]
        index = torch.randint(len(y), (count,), generator=self.generator)
        index = index.to(y.device, non_blocking=True)
        outputs = y[index].long() + self.offsets[self.kept["memory.task"][index].long()]
        return pixels(self.kept["memory.x"].index_select(0, index)), outputs

    def remember(self, task: Task) -> None:
        """Puts samples of the task just learned into the memory, pixels as bytes."""
        samples = task.train()
        y = samples.y
        seed = self.seed_for("memory", task.id)
        keys = None
        if self.options.memory == "balanced":
            index = balanced_choice(y, self.options.per_class, seed)
        else:
            keys = torch.rand(len(y), generator=torch.Generator().manual_seed(seed)).to(y.device)
            index = smallest(keys, self.options.size)
        tasks = self.benchmark.n_tasks
        labels = max(self.benchmark.task_classes(number) for number in range(tasks))
        new = {
            "x": as_bytes(samples.x[index]),
            "y": y[index].to(integers_for(labels)),
            "task": torch.full_like(index, task.id, dtype=integers_for(tasks)),
        }
        if keys is not None:
            new["key"] = keys[index]
        memory = {name: self._with_earlier(name, part) for name, part in new.items()}
        if "key" in memory:
            index = smallest(memory["key"], self.options.size)
            memory = {name: part[index] for name, part in memory.items()}
        self.kept |= {f"memory.{name}": part for name, part in memory.items()}

    def _with_earlier(self, name: str, part: Tensor) -> Tensor:
        """What the memory holds of ``name``, and ``part`` after it."""
        if f"memory.{name}" not in self.kept:
            return part
        earlier = self.kept[f"memory.{name}"]
        if earlier.dtype != part.dtype:  # Some inputs are pixels, others are not.
            earlier, part = pixels(earlier), pixels(part)
        return torch.cat([earlier, part])

    def details(self) -> dict[str, Any]:
        """How many samples of each task the memory holds."""
        tasks = self.kept.get("memory.task")
        if tasks is None:
            return {}
        counts = torch.bincount(tasks.long(), minlength=len(self.learned))
        return {"memory_samples_per_task": [int(count) for count in counts]}


def integers_for(count: int) -> torch.dtype:
    """The smallest type that holds 0 to ``count`` - 1."""
    return torch.uint8 if count <= 2**8 else torch.int16 if count <= 2**15 else torch.int32


def balanced_choice(y: Tensor, per_class: int, seed: int) -> Tensor:
    """Indices of ``per_class`` random samples (or all there are) of each label in y (N,)."""
    order = permutation(len(y), seed).to(y.device)
    shuffled = y[order]
    chosen = [order[shuffled == label][:per_class] for label in torch.unique(y)]
    return torch.cat(chosen)


def smallest(keys: Tensor, size: int) -> Tensor:
    """Indices, in rising order, of the ``size`` smallest of keys (N,), or of all.

    With keys drawn uniformly for every sample of a stream, what is kept after any part of it is
    a uniform sample without replacement of that part, as in Vitter's (1985) reservoir.
    """
    return keys.argsort(stable=True)[:size].sort().values
