"""Merged: LoRA per task, all of them merged into one network that needs no task id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from lora_cl.adapters import (
    Dense,
    How,
    activate,
    adapter_state,
    add_adapter,
    default_weight,
    merged_parameter_count,
    remove_adapter,
)
from lora_cl.benchmarks import Benchmark, Task
from lora_cl.errors import ConfigError
from lora_cl.methods.lora import LoRA
from lora_cl.methods.shared import LowRankOptions
from lora_cl.models import TaskNetwork
from lora_cl.options import OptionsBase

MERGED = "merged"


class MergedOptions(LowRankOptions):
    """`how`: linear, cat, svd (cut to `rank`), ties, dare_ties or magnitude_prune; `density`: the
    share of entries that the last three keep of each task. `weight` of every task: by default 1 / T
    where they are added, 1 for ties.
    """

    how: How = "ties"
    """How the adapters are merged."""
    density: float = Field(default=0.2, gt=0.0, le=1.0)
    """The share of entries that `ties`, `dare_ties` and `magnitude_prune` keep of each task."""
    weight: float | None = Field(default=None, gt=0.0)
    """Of every task; null: 1 / T where they are added, 1 for `ties` and `dare_ties`."""


class Merged(LoRA):
    """Every task trains its adapter on the base as `lora` does; answers come from the base with all
    adapters so far merged into one (Ilharco et al. 2023; Yadav et al. 2023).

    Heads are those of the tasks, side by side in class-incremental runs; in domain-incremental
    ones all tasks train the one head, one after another.
    """

    Options: ClassVar[type[OptionsBase]] = MergedOptions
    summary: ClassVar[str] = "LoRA per task, all merged into one network: no task id needed"
    private_heads = False
    sealed_alone = False

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._merged: tuple[list[int], dict[str, Tensor]] = ([], {})

    @property
    def isolated(self) -> bool:
        return False

    @property
    def own_outputs(self) -> bool:
        """Each adapter was trained with the head of its task, if tasks have their own."""
        return self.benchmark.scenario != "domain"

    def check(self, benchmark: Benchmark) -> None:
        chosen = getattr(self.options, "classifier", None)
        can = "joint" if benchmark.scenario == "domain" else "local"
        if chosen is not None and chosen.name != can:
            raise ConfigError(
                f"classifier {chosen.name} is for methods whose tasks share what is trained; "
                f"merged answers with the heads that its adapters were trained with: {can}"
            )
        super().check(benchmark)

    def seal(self, task: Task) -> None:
        """Moves the adapter, and a head of the task's own, into the bank."""
        if self.per_task_heads:
            super().seal(task)
            return
        name = self.head_name(task.id)
        state = adapter_state(self.network.backbone, name)
        self.bank[task.id] = {f"backbone.{k}": v for k, v in state.items()}
        remove_adapter(self.network.backbone, name)

    @contextmanager
    def view(self, task_id: int) -> Iterator[TaskNetwork]:
        """While a task is trained, by its own adapter; then by all that are sealed."""
        if task_id in self.learned and task_id not in self.bank:
            with super().view(task_id) as network:
                yield network
            return
        heads = self._heads_for(task_id)
        for other in heads:
            self._open_head(other)
        backbone, deltas = self.network.backbone, self._all_merged()
        if deltas:
            add_adapter(backbone, MERGED, lambda layer, base: Dense(deltas[layer]))
            activate(backbone, MERGED)
        try:
            yield self._side_by_side(heads) if len(heads) > 1 else self.task_network([task_id])
        finally:
            if deltas:
                remove_adapter(backbone, MERGED)
            for other in heads:
                del self.network.heads[self.head_name(other)]

    def _heads_for(self, task_id: int) -> list[int]:
        """The tasks whose sealed heads answer in the view of a task."""
        if not self.per_task_heads:
            return []
        return sorted(self.bank) if self.benchmark.scenario == "class" else [task_id]

    def _side_by_side(self, tasks: Sequence[int]) -> TaskNetwork:
        heads = [self.head(task_id) for task_id in tasks]
        offsets = {task_id: self.benchmark.first_class(task_id) for task_id in tasks}
        return TaskNetwork(self.network.backbone, heads, offsets)

    def _all_merged(self) -> dict[str, Tensor]:
        """The change of every layer's weight; computed once for each set of tasks."""
        tasks = sorted(self.bank)
        if self._merged[0] != tasks:
            o = self.options
            weight = default_weight(o.how, len(tasks)) if o.weight is None else o.weight
            weights = [weight] * len(tasks)
            merged = self.merged_deltas(tasks, o.how, weights, o.density, o.rank)
            self._merged = tasks, merged
        return self._merged[1]

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        self._merged = ([], {})

    def total_parameters(self) -> int:
        """The base, into which the adapters are merged, and the heads."""
        heads = [t for k in self.bank for n, t in self.bank[k].items() if n.startswith("head.")]
        return merged_parameter_count(self.network) + sum(tensor.numel() for tensor in heads)
