"""PNN: one column of layers per task, fed by the frozen columns of earlier tasks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from lora_cl.benchmarks import Task
from lora_cl.errors import ConfigError
from lora_cl.methods.method import Method, Size
from lora_cl.methods.routing import RouterOptions
from lora_cl.models import TaskNetwork, seeded, trainable_only
from lora_cl.models.columns import Column, Columns, hidden_layers, later_column
from lora_cl.models.stage_columns import (
    StageColumn,
    Start,
    channels,
    draw_anew,
    later_stages,
    stage_groups,
)
from lora_cl.options import OptionsBase

AnyColumn = Column | StageColumn


class PNNOptions(RouterOptions):
    """`column_width`: the width of every column after the first, as a factor on the first; with
    model mlp only. `start`: random weights for later columns, or those of the base."""

    column_width: Annotated[float, Field(gt=0.0, le=16.0)] = 1.0
    """The width of every column after the first, as a factor on the first; with model mlp only."""
    start: Start = "random"
    """What later columns begin with: random weights, or those of the base."""


class PNN(Method):
    """Rusu et al. 2016, arXiv 1606.04671. The first column is the base network.

    Later columns read all earlier ones through lateral adapters: layer by layer in a stack of
    linear layers, between the stages of any other network.
    """

    Options: ClassVar[type[OptionsBase]] = PNNOptions
    summary: ClassVar[str] = "one column per task, fed by the frozen columns of earlier tasks"
    private_heads = True

    @property
    def isolated(self) -> bool:
        return True

    @classmethod
    def sized_by(cls, options: Any) -> Size | None:
        return Size("column_width", most=16 * 64, step=1 / 64)

    def prepare(self) -> None:
        backbone = self.network.backbone
        self.linear = hidden_layers(backbone) if self.options.start == "random" else None
        if self.linear is None:
            if self.options.column_width != 1.0:
                raise ConfigError("column_width goes with model mlp and start random alone")
            self.groups = stage_groups(backbone)
            x = torch.zeros(1, *self.benchmark.input_shape, device=self.network.device)
            self.widths = channels(self.groups, x)
            if (
                self.options.start == "random"
            ):  # What cannot be drawn is told before anything starts.
                with seeded(0):
                    draw_anew(copy.deepcopy(backbone))
        self.later = nn.ModuleList()
        self.network.add_module("columns", self.later)

    def begin(self, task: Task) -> None:
        if self.learned:
            with seeded(self.seed_for("column", task.id)):
                self.later.append(self._next_column().to(self.network.device))
        super().begin(task)

    def _next_column(self) -> AnyColumn:
        earlier = self._columns(len(self.learned))
        if self.linear is None:
            return later_stages(self.groups, self.widths, len(earlier), self.options.start)
        columns = [column for column in earlier if isinstance(column, Column)]
        return later_column(self.linear, self.options.column_width, columns)

    def freeze_for(self, task: Task) -> None:
        column = self._columns(len(self.learned))[-1]
        trainable_only(self.network, [column, self.head(task.id)])

    @contextmanager
    def view(self, task_id: int) -> Iterator[TaskNetwork]:
        columns = self._columns(self.learned.index(task_id) + 1)
        yield self.task_network([task_id], Columns(columns))

    def head_features(self, task_id: int) -> int:
        return self._columns(len(self.later) + 1)[-1].features

    def _columns(self, count: int) -> list[AnyColumn]:
        """The first ``count`` columns."""
        later = [column for column in self.later if isinstance(column, AnyColumn)]
        if self.linear is None:
            return [StageColumn(self.groups, self.network.features), *later][:count]
        return [Column(self.linear), *later][:count]

    def details(self) -> dict[str, Any]:
        """Per task: the parameters of alpha, V and U, and of everything else of the column."""
        lateral, own = [], []
        for task_id, column in zip(self.learned, self._columns(len(self.learned)), strict=True):
            head = self.head(task_id)
            outputs = head.get_parameter("bias").numel()
            lateral.append(column.lateral_parameters() + column.lateral_features * outputs)
            parameters = [*column.parameters(), *head.parameters()]
            own.append(sum(p.numel() for p in parameters) - lateral[-1])
        return {"lateral_parameters": lateral, "column_parameters": own}
