"""Frozen: the base is frozen, only heads train, or nothing at all."""

from __future__ import annotations

from typing import ClassVar, Literal

from lora_cl.benchmarks import Task
from lora_cl.methods.means import NearestMean, class_sums
from lora_cl.methods.method import Fit, Method
from lora_cl.models import trainable_only
from lora_cl.options import OptionsBase


class FrozenOptions(OptionsBase):
    """`head`: a trained linear layer, or `ncm`, the nearest class mean in base features."""

    head: Literal["linear", "ncm"] = "linear"
    """`linear`, a trained layer; `ncm`, nearest class means, which train nothing."""


class Frozen(Method):
    """Features come from the base as it is.

    With ``ncm``, the means of a domain-incremental run are over the samples of all tasks so far.
    """

    Options: ClassVar[type[OptionsBase]] = FrozenOptions
    summary: ClassVar[str] = "the base is frozen, only the head trains (or nearest class means)"

    @property
    def isolated(self) -> bool:
        return self.per_task_heads

    def freeze_for(self, task: Task) -> None:
        trainable_only(self.network, [self.head(task.id)])

    def learn(self, task: Task, fit: Fit) -> None:
        head = self.head(task.id)
        if not isinstance(head, NearestMean):
            fit([task])
            return
        samples, backbone = task.train(), self.network.backbone.eval()
        sums, counts = class_sums(backbone, samples.x, samples.y, task.classes)
        head.add(sums, counts, task.first_class if self.benchmark.scenario == "class" else 0)

    def answers(self, task_id: int) -> bool:
        """Means answer for nothing before there are some."""
        return super().answers(task_id) and (self.options.head == "linear" or bool(self.learned))

    def _add_head(self, task_id: int, outputs: int) -> None:
        if self.options.head == "linear":
            super()._add_head(task_id, outputs)
            return
        network, name = self.network, self.head_name(task_id)
        if name not in network.heads:
            network.heads[name] = NearestMean(outputs, network.features, network.device)
