"""Adam, AdamW and SGD over torch's own fused kernels, without the weight of ``torch.optim``.

Building a ``torch.optim.Optimizer`` imports torch's compiler and takes seconds, more than a small
experiment trains. These do the same arithmetic, bit for bit, on the same kernels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

State = dict[str, Tensor]


class Optimizer(ABC):
    """Updates parameters by their gradients; one without a gradient stays as it is.

    ``groups`` hold ``params`` and ``lr``, and may hold ``zero_grad``: their parameters have a
    gradient of 0 to begin with, so that they follow their momentum where nothing adds to it.
    ``state`` is what the update rule keeps of each parameter, made at its first step.
    """

    def __init__(self, groups: list[dict[str, Any]], weight_decay: float) -> None:
        self.groups = groups
        self.weight_decay = weight_decay
        self.parameters: list[nn.Parameter] = [p for group in groups for p in group["params"]]
        self.state: dict[nn.Parameter, State] = {}

    def zero_grad(self) -> None:
        for group in self.groups:
            zero = group.get("zero_grad", False)
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter) if zero else None

    @torch.no_grad()
    def step(self) -> None:
        for group in self.groups:
            moving = [p for p in group["params"] if p.grad is not None]
            if moving:
                states = [self.state.get(p) or self._begin(p) for p in moving]
                grads = [p.grad for p in moving]
                self._update(moving, grads, states, group["lr"])
                # Torch's fused kernels do not, and what is kept of a network goes by it.
                torch.autograd.graph.increment_version(moving)

    def _begin(self, parameter: nn.Parameter) -> State:
        self.state[parameter] = self.fresh(parameter)
        return self.state[parameter]

    @abstractmethod
    def fresh(self, parameter: Tensor) -> State:
        """The state of a parameter before its first step."""

    @abstractmethod
    def _update(
        self, parameters: list[Any], grads: list[Any], states: list[State], lr: float
    ) -> None: ...


class Adam(Optimizer):
    """Kingma & Ba 2015, arXiv 1412.6980; ``decoupled`` decay: Loshchilov & Hutter 2019.

    beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8.
    """

    def __init__(
        self, groups: list[dict[str, Any]], weight_decay: float, decoupled: bool = False
    ) -> None:
        super().__init__(groups, weight_decay)
        self.decoupled = decoupled

    def fresh(self, parameter: Tensor) -> State:
        return {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }

    def _update(
        self, parameters: list[Any], grads: list[Any], states: list[State], lr: float
    ) -> None:
        adam(
            parameters,
            grads,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            decoupled_weight_decay=self.decoupled,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=lr,
            weight_decay=self.weight_decay,
            eps=1e-8,
            maximize=False,
        )


class SGD(Optimizer):
    """Stochastic gradient descent with momentum as torch defines it."""

    def __init__(
        self, groups: list[dict[str, Any]], weight_decay: float, momentum: float = 0.0
    ) -> None:
        super().__init__(groups, weight_decay)
        self.momentum = momentum

    def fresh(self, parameter: Tensor) -> State:
        return {"momentum_buffer": torch.zeros_like(parameter)} if self.momentum else {}

    def _update(
        self, parameters: list[Any], grads: list[Any], states: list[State], lr: float
    ) -> None:
        buffers: list[Any] = [state.get("momentum_buffer") for state in states]
        sgd(
            parameters,
            grads,
            buffers,
            fused=True,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            lr=lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )


def make_optimizer(
    name: str,
    groups: list[dict[str, Any]],
    lr: float,
    weight_decay: float,
    momentum: float,
    head_lr: float | None = None,
    heads: Iterable[nn.Parameter] = (),
) -> Optimizer:
    """``name`` is adam, adamw or sgd; a group's `lr_scale` multiplies its rate.

    Those of ``heads`` have ``head_lr`` in the place of ``lr``, where it is given.
    """
    groups = _of_one_rate(groups, lr, head_lr, {id(p) for p in heads})
    if name == "sgd":
        return SGD(groups, weight_decay, momentum)
    return Adam(groups, weight_decay, decoupled=name == "adamw")


def _of_one_rate(
    groups: list[dict[str, Any]], lr: float, head_lr: float | None, heads: set[int]
) -> list[dict[str, Any]]:
    """Every group with its `lr`; ``heads``, by id, in groups of their own where theirs differs."""
    found = []
    for group in groups:
        scale, params = group.get("lr_scale", 1.0), list(group["params"])
        if head_lr is not None and (own := [p for p in params if id(p) in heads]):
            params = [p for p in params if id(p) not in heads]
            found.append({**group, "params": own, "lr": head_lr * scale})
        found.append({**group, "params": params, "lr": lr * scale})
    return found
