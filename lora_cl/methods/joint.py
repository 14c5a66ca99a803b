"""Joint training: all tasks at once, at the end. The upper reference."""

from __future__ import annotations

from typing import ClassVar

from lora_cl.benchmarks import Task
from lora_cl.methods.method import Fit, Method
from lora_cl.models import trainable_only
from lora_cl.options import OptionsBase


class JointOptions(OptionsBase):
    """No options."""


class Joint(Method):
    """One fit on the samples of all tasks, shuffled together, after the last task has come."""

    Options: ClassVar[type[OptionsBase]] = JointOptions
    summary: ClassVar[str] = "all tasks at once, their samples shuffled: the upper reference"

    def freeze_for(self, task: Task) -> None:
        trainable_only(self.network, [self.network])

    def learn(self, task: Task, fit: Fit) -> None:
        if self.complete:
            fit([self.benchmark.task(index) for index in range(self.benchmark.n_tasks)])

    def finish(self, task: Task) -> None:
        if self.complete:
            for index in range(self.benchmark.n_tasks):
                super().finish(self.benchmark.task(index))

    @property
    def complete(self) -> bool:
        return len(self.learned) == self.benchmark.n_tasks

    def answers(self, task_id: int) -> bool:
        return self.complete
