"""Frozen: the base is frozen, only heads train, or nothing at all."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import nn

from lora_cl.benchmarks import Task
from lora_cl.data.streaming import parts
from lora_cl.methods.method import Fit, Method
from lora_cl.models import trainable_only
from lora_cl.options import OptionsBase


class FrozenOptions(OptionsBase):
    """`head`: a trained linear layer, or `ncm`, the nearest class mean in base features."""

    head: Literal["linear", "ncm"] = "linear"


class Frozen(Method):
    """Features come from the base as it is."""

    Options: ClassVar[type[OptionsBase]] = FrozenOptions
    summary: ClassVar[str] = "the base is frozen, only the head trains (or nearest class means)"

    @property
    def isolated(self) -> bool:
        return self.per_task_heads

    def freeze_for(self, task: Task) -> None:
        heads = [self.head(task.id)] if self.options.head == "linear" else []
        trainable_only(self.network, heads)

    def learn(self, task: Task, fit: Fit) -> None:
        if self.options.head == "linear":
            fit([task])
        else:
            self._set_class_means(task)

    @torch.no_grad()
    def _set_class_means(self, task: Task) -> None:
        """Nearest mean as a linear layer: -|h - m|^2 / 2 = m.h - |m|^2 / 2 - |h|^2 / 2.

        The last term is the same for all classes. In a domain-incremental run, means are over
        the samples of all tasks so far.
        """
        samples = task.train()
        features = torch.cat([self.network.backbone(part) for part in parts(samples.x, 4096)])
        one_hot = nn.functional.one_hot(samples.y, task.classes).to(features.dtype)
        sums, counts = one_hot.T @ features, one_hot.sum(0)
        first = task.first_class if self.benchmark.scenario == "class" else 0
        if self.benchmark.scenario == "domain":
            sums = sums + self.kept.get("sums", torch.zeros_like(sums))
            counts = counts + self.kept.get("counts", torch.zeros_like(counts))
            self.kept |= {"sums": sums, "counts": counts}
        means = sums / counts.clamp(min=1)[:, None]
        head = self.head(task.id)
        assert isinstance(head, nn.Linear)
        rows = slice(first, first + task.classes)
        head.weight[rows] = means
        head.bias[rows] = -means.square().sum(1) / 2
