"""SI: synaptic intelligence (Zenke, Poole & Ganguli 2017, arXiv 1703.04200)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lora_cl.benchmarks import Task
from lora_cl.methods.method import Fit
from lora_cl.methods.shared import SharedBackbone, SharedBackboneOptions
from lora_cl.models import TaskNetwork
from lora_cl.options import OptionsBase


class SIOptions(SharedBackboneOptions):
    """`c`: how strongly earlier tasks hold; `xi`: keeps the importance of what barely moved
    finite. `gradient`: which the path integral takes, that of the task's own loss (Zenke et
    al. 2017) or of the whole loss, with the penalty (the code of van de Ven et al. 2022).
    """

    c: Annotated[float, Field(ge=0.0)] = 10.0
    """How strongly earlier tasks hold."""
    xi: Annotated[float, Field(gt=0.0)] = 0.1
    """Keeps the importance of what barely moved finite."""
    gradient: Literal["task", "whole"] = "task"
    """The gradient in the path integral: of the task's own loss, or of the whole loss, with the
    penalty."""


class SI(SharedBackbone):
    """A weight matters by how much of the loss's fall it brought about while it was learned."""

    Options: ClassVar[type[OptionsBase]] = SIOptions
    summary: ClassVar[str] = "a quadratic penalty ties weights by their share in the loss's fall"

    def learn(self, task: Task, fit: Fit) -> None:
        fit([task])
        self.consolidate()

    def start_fit(self, tasks: Sequence[Task], network: TaskNetwork) -> None:
        self.shared = self.shared_parameters()
        for name, parameter in self.shared.items():
            self.kept[f"anchor.{name}"] = parameter.detach().clone()
            self.kept[f"path.{name}"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def after_backward(self) -> None:
        """Adds the gradient of the penalty, which ``penalty`` would have mixed with the task's own,
        and notes that of the path integral."""
        self.before: dict[str, tuple[Tensor, Tensor]] = {}
        for name, parameter in self.shared.items():
            if parameter.grad is None:
                continue
            noted = parameter.grad.clone()
            importance = self.kept.get(f"importance.{name}")
            if importance is not None:
                anchor = self.kept[f"anchor.{name}"]
                pull = si_penalty_gradient(parameter, anchor, importance, self.options.c)
                parameter.grad += pull
                if self.options.gradient == "whole":
                    noted += pull
            self.before[name] = (parameter.clone(), noted)

    @torch.no_grad()
    def after_step(self, step: int, total_steps: int) -> None:
        for name, (theta, gradient) in self.before.items():
            moved = self.shared[name] - theta
            key = f"path.{name}"
            self.kept[key] = torch.addcmul(self.kept[key], gradient, moved, value=-1)

    @torch.no_grad()
    def consolidate(self) -> None:
        """Turns the path of the task just learned into importance, and forgets the path."""
        for name, parameter in self.shared_parameters().items():
            anchor, path = self.kept[f"anchor.{name}"], self.kept.pop(f"path.{name}")
            new = si_importance(path, parameter - anchor, self.options.xi)
            old = self.kept.get(f"importance.{name}", torch.zeros_like(new))
            self.kept[f"importance.{name}"] = old + new
            self.kept[f"anchor.{name}"] = parameter.detach().clone()


def si_importance(path: Tensor, moved: Tensor, xi: float) -> Tensor:
    """omega_i / ((Delta theta_i)^2 + xi), one task's part of Omega (Zenke et al. 2017, equation 5).

    ``path``: omega_i = -sum over steps of g_i times the step's change of theta_i (equation 3), g
    the gradient of the task's loss without the penalty; it can be negative. ``moved``: the change
    over the whole task. All of one shape.
    """
    return path / (moved.square() + xi)


def si_penalty(theta: Tensor, anchor: Tensor, importance: Tensor, c: float) -> Tensor:
    """c sum_i Omega_i (theta_i - theta*_i)^2, all of one shape (Zenke et al. 2017, equation 4)."""
    return c * (importance * (theta - anchor).square()).sum()


def si_penalty_gradient(theta: Tensor, anchor: Tensor, importance: Tensor, c: float) -> Tensor:
    """2 c Omega_i (theta_i - theta*_i): the gradient of ``si_penalty`` with respect to theta."""
    return 2 * c * importance * (theta - anchor)
