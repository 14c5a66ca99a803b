"""PNN: one column of layers per task, fed by the frozen columns of earlier tasks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import nn

from lora_cl.benchmarks import Task
from lora_cl.methods.method import Method
from lora_cl.methods.routing import RouterOptions
from lora_cl.models import TaskNetwork, seeded, trainable_only
from lora_cl.models.columns import Column, Columns, hidden_layers, later_column, linear_of
from lora_cl.options import OptionsBase


class PNNOptions(RouterOptions):
    """`column_width`: the width of every column after the first, as a factor on the first."""

    column_width: Annotated[float, Field(gt=0.0, le=16.0)] = 1.0
    """The width of every column after the first, as a factor on the first."""


class PNN(Method):
    """Rusu et al. 2016, arXiv 1606.04671. The first column is the base network.

    Later columns start from random weights and read all earlier ones through lateral adapters.
    """

    Options: ClassVar[type[OptionsBase]] = PNNOptions
    summary: ClassVar[str] = "one column per task, fed by the frozen columns of earlier tasks"
    private_heads = True

    @property
    def isolated(self) -> bool:
        return True

    def prepare(self) -> None:
        self.first = hidden_layers(self.network.backbone)
        self.later = nn.ModuleList()
        self.network.add_module("columns", self.later)

    def begin(self, task: Task) -> None:
        if self.learned:
            earlier = self._columns(len(self.learned))
            with seeded(self.seed_for("column", task.id)):
                column = later_column(self.first, self.options.column_width, earlier)
            self.later.append(column.to(self.network.device))
        super().begin(task)

    def freeze_for(self, task: Task) -> None:
        column = self._columns(len(self.learned))[-1]
        trainable_only(self.network, [column, self.head(task.id)])

    @contextmanager
    def view(self, task_id: int) -> Iterator[TaskNetwork]:
        columns = self._columns(self.learned.index(task_id) + 1)
        yield self.task_network([task_id], Columns(columns))

    def head_features(self, task_id: int) -> int:
        if not self.later:
            return self.network.features
        last = self.later[-1]
        assert isinstance(last, Column)
        return 2 * linear_of(last.layers[-1]).out_features

    def _columns(self, count: int) -> list[Column]:
        """The first ``count`` columns."""
        later = [column for column in self.later if isinstance(column, Column)]
        return [Column(self.first), *later][:count]

    def details(self) -> dict[str, Any]:
        """Per task: the parameters of alpha, V and U, and of everything else of the column."""
        lateral, own = [], []
        for task_id, column in zip(self.learned, self._columns(len(self.learned)), strict=True):
            head = linear_of(self.head(task_id))
            head_inputs = linear_of(column.adapters[-1]).out_features if column.adapters else 0
            lateral.append(column.lateral_parameters() + head_inputs * head.out_features)
            parameters = [*column.parameters(), *head.parameters()]
            own.append(sum(p.numel() for p in parameters) - lateral[-1])
        return {"lateral_parameters": lateral, "column_parameters": own}
