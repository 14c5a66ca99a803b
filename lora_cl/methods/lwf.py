"""LwF: learning without forgetting (Li & Hoiem 2016, arXiv 1606.09282)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from lora_cl.benchmarks import Task
from lora_cl.methods.method import Fit, task_cross_entropy
from lora_cl.methods.shared import SharedBackbone, SharedBackboneOptions
from lora_cl.models import TaskNetwork
from lora_cl.options import OptionsBase

TEACHER = "teacher."


class LwFOptions(SharedBackboneOptions):
    """`weighting`: per-task, the distillation of each earlier task weighs as much as the loss (van
    de Ven et al. 2022); fixed, that of each earlier head weighs `strength`, the paper's lambda_o;
    shares, their mean weighs 1 - 1/k and the loss of the k-th task 1/k (van de Ven & Tolias 2019).
    `temperature`: T of the softened outputs; `temperature_squared`: the distillation times T^2.
    `new_classes` of a class-incremental run have the target probability 0 in the distillation
    (zero), or no part in it (ignored).
    """

    temperature: Annotated[float, Field(gt=0.0)] = 2.0
    """T, by which outputs are softened."""
    temperature_squared: bool = False
    """Multiply the distillation by T^2, which keeps its gradient independent of T."""
    weighting: Literal["per-task", "fixed", "shares"] = "per-task"
    """How loss and distillation are weighed: every earlier task as much as the loss
    (`per-task`), by `strength` (`fixed`), or 1/k and 1 - 1/k at the k-th task (`shares`)."""
    strength: Annotated[float, Field(ge=0.0)] = 1.0
    """lambda_o of `fixed`."""
    new_classes: Literal["zero", "ignored"] = "zero"
    """In class-incremental runs: new classes have the target 0 in the distillation, or no part
    in it."""


class LwF(SharedBackbone):
    """On the new task's inputs, earlier heads are to answer as they did before it.

    Earlier heads: of every earlier task, the shared head, or the outputs of classes seen before.
    """

    Options: ClassVar[type[OptionsBase]] = LwFOptions
    summary: ClassVar[str] = "earlier heads are held to their old outputs on the new task's inputs"
    trains_earlier_heads: ClassVar[bool] = True

    def learn(self, task: Task, fit: Fit) -> None:
        fit([task])
        self.kept = {k: v for k, v in self.kept.items() if not k.startswith(TEACHER)}

    def start_fit(self, tasks: Sequence[Task], network: TaskNetwork) -> None:
        """Freezes the old model: its structure here, in eval mode, and its tensors in ``kept``."""
        if len(self.learned) == 1:
            return
        self.earlier = self.earlier_network()
        tensors = self.earlier.state_dict(keep_vars=True)
        # What the copy finds in its memo it shares: a frozen base is not held twice.
        memo: dict[int, Any] = {id(tensor): tensor for tensor in tensors.values()}
        self.teacher = copy.deepcopy(self.earlier, memo).eval()
        moving = {id(t) for part in self.trunk() for t in part.state_dict(keep_vars=True).values()}
        moving |= {id(tensor) for tensor in self.earlier.heads.parameters()}
        for name, tensor in tensors.items():
            if id(tensor) in moving:
                self.kept[TEACHER + name] = tensor.detach().clone()

    def loss(self, network: TaskNetwork, x: Tensor, y: Tensor) -> Tensor:
        if len(self.learned) == 1:
            return super().loss(network, x, y)
        features = network.backbone(x)
        logits = network.logits(features)
        new = task_cross_entropy(network, logits, y)
        heads = self.outputs_per_head()
        teacher = torch.split(self.teacher_logits(x), heads, dim=1)
        if self.earlier.outputs is not None and self.options.new_classes == "zero":
            student: Sequence[Tensor] = [logits]
        else:
            student = torch.split(self.earlier.logits(features), heads, dim=1)
        o = self.options
        distilled = torch.stack(
            [distillation(s, t, o.temperature) for s, t in zip(student, teacher, strict=True)]
        )
        if o.temperature_squared:
            distilled = o.temperature**2 * distilled
        if o.weighting == "shares":
            share = 1 / len(self.learned)
            return share * new + (1 - share) * distilled.mean()
        return new + self.distillation_weight() * distilled.sum()

    def distillation_weight(self) -> float:
        """What the distillation of one head weighs, where the loss of the new task weighs 1.

        Per task: a shared head stands for all earlier tasks, the classes seen before for one.
        """
        if self.options.weighting == "fixed":
            return float(self.options.strength)
        return len(self.learned) - 1 if self.benchmark.scenario == "domain" else 1

    @torch.no_grad()
    def teacher_logits(self, x: Tensor) -> Tensor:
        """The old model's logits (N, outputs of all earlier heads) for x (N, *input)."""
        start = len(TEACHER)
        tensors = {k[start:]: v for k, v in self.kept.items() if k.startswith(TEACHER)}
        logits: Tensor = functional_call(self.teacher, tensors, (x,))
        return logits

    def earlier_network(self) -> TaskNetwork:
        """The network as the tasks before the present one see it."""
        network = self.task_network(self.learned[:-1])
        if network.outputs is not None and self.classifier != "all-classes":
            network.outputs = self.benchmark.first_class(self.learned[-1])
        return network

    def outputs_per_head(self) -> list[int]:
        """How the logits of ``earlier_network`` divide into heads, each with its own softmax."""
        if self.per_task_heads:
            return [self.benchmark.task_classes(task_id) for task_id in self.learned[:-1]]
        if self.earlier.outputs is not None:
            return [self.earlier.outputs]
        return [self.benchmark.task_classes(0)]


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """-mean over n of sum_c q_nc log p_nc, q and p the softmax of ``teacher`` / T and
    ``student`` / T, logits (N, C) (Li & Hoiem 2016, equations 2 and 3).

    Where the student has more outputs than the teacher, q is 0 for those.
    """
    targets = functional.softmax(teacher / temperature, dim=1)
    targets = functional.pad(targets, (0, student.shape[1] - teacher.shape[1]))
    return functional.cross_entropy(student / temperature, targets)
