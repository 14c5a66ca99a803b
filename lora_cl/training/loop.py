"""The hot path: one training loop, one evaluation loop. Tensors in, tensors out."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from lora_cl.data.streaming import Inputs, batches, parts
from lora_cl.models import TaskNetwork, training_mode
from lora_cl.training.optimizers import Optimizer


class Learner(Protocol):
    """The hooks that a method offers to the loop; see ``methods.Method``."""

    def loss(self, network: TaskNetwork, x: Tensor, y: Tensor) -> Tensor: ...
    def penalty(self) -> Tensor | None: ...
    def after_backward(self) -> None: ...
    def after_step(self, step: int, total_steps: int) -> None: ...


@dataclass
class Progress:
    """Where a fit stands: everything the loop needs to go on from there, besides the weights.

    ``step`` counts optimiser steps of this fit; ``losses`` holds the loss of each step of the
    current epoch so far, on the device.
    """

    epoch: int = 0
    step: int = 0
    losses: list[Tensor] = field(default_factory=list)


def step_at(share: float, budget: int) -> int:
    """How many of ``budget`` steps are done at a share of it: rounded, but at least one after 0."""
    return min(budget, max(1, round(share * budget))) if share > 0.0 else 0


def fit(
    learner: Learner,
    network: TaskNetwork,
    x: Inputs,
    y: Tensor,
    *,
    optimizer: Optimizer,
    rate: Callable[[float], float],
    batch_size: int,
    total_steps: int,
    order: Callable[[int], Tensor],
    clip_norm: float | None,
    precision: str,
    progress: Progress,
    after_step: Callable[[], None],
    after_epoch: Callable[[Tensor], None],
    micro_batch: int | None = None,
) -> None:
    """Trains on x (N, *input) and y (N,) from ``progress`` until ``total_steps`` are done.

    ``order(epoch)`` is the epoch's permutation of the N samples; ``rate`` maps the finished share
    of the fit, in [0, 1), to a factor on the learning rates; ``precision``, one of PRECISIONS, is
    that of a batch's loss, not of the penalty; at most ``micro_batch`` samples go through the
    network at once. ``after_step`` runs once the step is applied, ``after_epoch`` receives the
    losses of an epoch's steps; both may raise to stop.
    """
    training_mode(network)
    per_epoch = math.ceil(len(x) / batch_size)
    base_rates = [group["lr"] for group in optimizer.groups]
    products = precise(precision, y.device)
    while progress.step < total_steps:
        indices = torch.split(order(progress.epoch), batch_size)
        done = progress.step - progress.epoch * per_epoch
        indices = indices[done : done + total_steps - progress.step]
        for index, inputs in zip(indices, batches(x, indices), strict=True):
            factor = rate(progress.step / total_steps)
            for group, base_rate in zip(optimizer.groups, base_rates, strict=True):
                group["lr"] = base_rate * factor
            optimizer.zero_grad()
            wanted = y.index_select(0, index)
            loss = backward(learner, network, inputs, wanted, micro_batch, products)
            learner.after_backward()
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(optimizer.parameters, clip_norm)
            optimizer.step()
            progress.step += 1
            progress.losses.append(loss)
            learner.after_step(progress.step, total_steps)
            after_step()
        progress.epoch += 1
        losses, progress.losses = torch.stack(progress.losses), []
        after_epoch(losses)
    for group, base_rate in zip(optimizer.groups, base_rates, strict=True):
        group["lr"] = base_rate


def backward(
    learner: Learner,
    network: TaskNetwork,
    x: Tensor,
    y: Tensor,
    micro_batch: int | None,
    products: AbstractContextManager[Any],
) -> Tensor:
    """Adds up the gradients of a batch's loss and of the penalty; the loss, a scalar, detached.

    The batch is taken in parts of ``micro_batch`` samples, the mean of each weighed by its size, so
    that only one part's activations are held.
    """
    if micro_batch is None or len(y) <= micro_batch:
        with products:
            loss = learner.loss(network, x, y)
        penalty = learner.penalty()
        (loss if penalty is None else loss + penalty).backward()  # type: ignore[no-untyped-call]
        return loss.detach()
    losses: list[Tensor] = []
    pieces = zip(torch.split(x, micro_batch), torch.split(y, micro_batch), strict=True)
    for part, wanted in pieces:
        with products:
            loss = learner.loss(network, part, wanted) * (len(wanted) / len(y))
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    penalty = learner.penalty()
    if penalty is not None:
        penalty.backward()  # type: ignore[no-untyped-call]
    return torch.stack(losses).sum()


def precise(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Products and convolutions inside are computed in ``precision``, one of PRECISIONS; what needs
    a longer type (norms, softmax, losses) is not, and weights stay float32 (Micikevicius et al.
    2018, arXiv 1710.03740). May be entered again."""
    dtype = PRECISIONS[precision]
    return nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype)


@torch.inference_mode()
def accuracy(network: TaskNetwork, x: Inputs, y: Tensor, batch_size: int = 2048) -> float:
    """The share of samples x (N, *input) whose largest output is y (N,); one synchronisation."""
    return share_equal(predictions(network, x, batch_size), y)


def share_equal(found: Tensor, right: Tensor) -> float:
    """The share of equal elements of found (N,) and right (N,)."""
    return int(found.eq(right).sum()) / len(right)


def counted(found: Tensor, right: Tensor, classes: int, outputs: int) -> Tensor:
    """How often an input of class i was given output j, (classes, outputs), from the outputs found
    (N,) and the classes right (N,)."""
    cells = torch.bincount(right * outputs + found, minlength=classes * outputs)
    return cells.reshape(classes, outputs)


@torch.inference_mode()
def predictions(network: TaskNetwork, x: Inputs, batch_size: int = 2048) -> Tensor:
    """The largest output (N,) for each input of x (N, *input), in eval mode."""
    network.eval()
    return torch.cat([network(part).argmax(1) for part in parts(x, batch_size)])


PRECISIONS: dict[str, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16}

RATES: dict[str, Callable[[float], float]] = {
    "constant": lambda share: 1.0,
    "linear": lambda share: 1.0 - share,
    "cosine": lambda share: 0.5 * (1.0 + math.cos(math.pi * share)),
}
