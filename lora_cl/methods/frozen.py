"""Frozen: the base is frozen, only heads train, or nothing at all."""

from __future__ import annotations

from typing import Any, ClassVar

from lora_cl.benchmarks import Task
from lora_cl.methods.classifier import is_trained
from lora_cl.methods.method import Fit, Method
from lora_cl.models import trainable_only
from lora_cl.options import OptionsBase


class FrozenOptions(OptionsBase):
    """No options."""


class Frozen(Method):
    """Features come from the base as it is; with a classifier of statistics nothing is trained.

    The statistics of a domain-incremental run are over the samples of all tasks so far.
    """

    Options: ClassVar[type[OptionsBase]] = FrozenOptions
    summary: ClassVar[str] = "the base is frozen, only the head trains (or class statistics answer)"

    @classmethod
    def trains(cls, options: Any) -> bool:
        return options.classifier is None or is_trained(options.classifier.name)

    @property
    def isolated(self) -> bool:
        return self.benchmark.scenario == "task"

    def freeze_for(self, task: Task) -> None:
        trainable_only(self.network, [] if self.by_statistics else [self.head(task.id)])

    def learn(self, task: Task, fit: Fit) -> None:
        if not self.by_statistics:
            fit([task])

    def _add_trained_head(self, task_id: int, outputs: int) -> None:
        if not self.by_statistics:
            super()._add_trained_head(task_id, outputs)
