"""Shared-private: an encoder that all tasks go on training, and a small private part per task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lora_cl.benchmarks import Task
from lora_cl.errors import ConfigError
from lora_cl.methods.method import Method, Size, task_cross_entropy
from lora_cl.methods.routing import RouterOptions
from lora_cl.models import TaskNetwork, seeded, trainable_only
from lora_cl.options import OptionsBase


class SharedPrivateOptions(RouterOptions):
    """`private_dim`: width of the private branch, which sees the `input` or the shared `features`.

    `shared_lr`: factor on the encoder's rate after the first task; 0 freezes it.
    `difference`: weight of the difference loss, `paper` (a sum, as in the equation) or
    `normalized` (rows centred and of unit length, the mean over the entries).
    """

    private_dim: Annotated[int, Field(ge=1, le=65536)] = 32
    """Width of the private branch."""
    private_input: Literal["input", "features"] = "input"
    """What the branch sees: the flattened input, or the shared features."""
    shared_lr: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    """A factor on the encoder's learning rate after the first task; 0 freezes it."""
    difference: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the difference loss."""
    difference_variant: Literal["paper", "normalized"] = "paper"
    """The sum of the equation, which grows with the square of the batch, or the scale-free mean."""


def difference_loss(shared: Tensor, private: Tensor) -> Tensor:
    """||H_s^T H_p||_F^2, which is 0 where private features say nothing that shared ones do.

    Bousmalis et al. 2016 (arXiv 1608.06019), eq. 5; Ebrahimi et al. 2020 (arXiv 2003.09553).
    ``shared`` (N, d_s) and ``private`` (N, d_p) hold one sample a row; the scalar grows with N^2.
    """
    return (shared.T @ private).square().sum()


def normalized_difference_loss(shared: Tensor, private: Tensor) -> Tensor:
    """The mean square entry of H_s^T H_p, columns centred over the batch, then rows of length 1.

    As ``difference_loss`` otherwise; it does not depend on the scale of the features.
    """
    centred = [h - h.mean(dim=0) for h in (shared, private)]
    h_s, h_p = (functional.normalize(h, dim=1) for h in centred)
    return (h_s.T @ h_p).square().mean()


DIFFERENCE = {"paper": difference_loss, "normalized": normalized_difference_loss}


class SharedAndPrivate(nn.Module):
    """(N, *input) -> the shared features and, beside them, the private ones (N, d_s + d_p)."""

    def __init__(self, shared: nn.Module, private: nn.Module, private_input: str) -> None:
        super().__init__()
        self.shared = shared
        self.private = private
        self.from_features = private_input == "features"

    def forward(self, x: Tensor) -> Tensor:
        shared = self.shared(x)
        private = self.private(shared if self.from_features else x)
        return torch.cat([shared, private], dim=1)


class SharedPrivate(Method):
    """After the first task the encoder learns slowly, or not at all; private parts stay."""

    Options: ClassVar[type[OptionsBase]] = SharedPrivateOptions
    summary: ClassVar[str] = "a shared encoder that learns slowly, a small private part per task"
    private_heads = True

    @property
    def isolated(self) -> bool:
        return bool(self.options.shared_lr == 0.0)

    @classmethod
    def sized_by(cls, options: Any) -> Size | None:
        return Size("private_dim")

    def prepare(self) -> None:
        reads_text = getattr(self.network.backbone, "reads_text", False)
        if reads_text and self.options.private_input == "input":
            raise ConfigError("a private branch cannot read texts; use private_input: features")
        self.private = nn.ModuleDict()
        self.network.add_module("private", self.private)

    def begin(self, task: Task) -> None:
        from_features = self.options.private_input == "features"
        width = self.network.features if from_features else self.benchmark.input_shape.numel()
        with seeded(self.seed_for("private", task.id)):
            branch = nn.Sequential(
                nn.Flatten(), nn.Linear(width, self.options.private_dim), nn.ReLU()
            )
        self.private[self.head_name(task.id)] = branch.to(self.network.device)
        super().begin(task)

    def freeze_for(self, task: Task) -> None:
        own = [self.private[self.head_name(task.id)], self.head(task.id)]
        shared = [self.network.backbone] if self._shared_rate() else []
        trainable_only(self.network, [*shared, *own])

    def param_groups(self) -> list[dict[str, Any]]:
        shared = [p for p in self.network.backbone.parameters() if p.requires_grad]
        slow = {id(p) for p in shared}
        own = [p for p in self.network.parameters() if p.requires_grad and id(p) not in slow]
        groups: list[dict[str, Any]] = [{"params": own}]
        if shared:
            groups.append({"params": shared, "lr_scale": self._shared_rate()})
        return groups

    @property
    def loss_is_a_mean(self) -> bool:
        return not self.options.difference  # It compares the samples of a batch.

    def loss(self, network: TaskNetwork, x: Tensor, y: Tensor) -> Tensor:
        features = network.backbone(x)
        loss = task_cross_entropy(network, network.logits(features), y)
        if self.options.difference:
            shared, private = features.tensor_split([self.network.features], dim=1)
            difference = DIFFERENCE[self.options.difference_variant](shared, private)
            loss = loss + self.options.difference * difference
        return loss

    @contextmanager
    def view(self, task_id: int) -> Iterator[TaskNetwork]:
        private = self.private[self.head_name(task_id)]
        both = SharedAndPrivate(self.network.backbone, private, self.options.private_input)
        yield self.task_network([task_id], both)

    def head_features(self, task_id: int) -> int:
        return self.network.features + int(self.options.private_dim)

    def _shared_rate(self) -> float:
        """The factor on the encoder's rate: the first task trains it like everything else."""
        return 1.0 if len(self.learned) == 1 else float(self.options.shared_lr)

    def details(self) -> dict[str, Any]:
        branches = self.private.values()
        return {"private_parameters": [sum(p.numel() for p in b.parameters()) for b in branches]}
