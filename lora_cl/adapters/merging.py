"""Several adapters made one: arithmetic on the changes of weights dW that they stand for.

On dW, not on the factors: two adapters that compute the same have the same dW, whatever their A
and B, and of DoRA or AdaLoRA there is one, too. (PEFT's ``linear``, ``ties`` and others without
``_svd`` in their names combine A and B apart, which brings in products of one task's B with
another's A; its ``cat`` and ``*_svd`` are what is computed here.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_cl.adapters.layer import Adapter
from lora_cl.adapters.subspaces import cut
from lora_cl.errors import MethodError

How = Literal["linear", "cat", "svd", "ties", "dare_ties", "magnitude_prune"]
HOWS: tuple[How, ...] = ("linear", "cat", "svd", "ties", "dare_ties", "magnitude_prune")


def default_weight(how: How, tasks: int) -> float:
    """What each task's dW is multiplied by: 1 / T where they are added, 1 where ``how`` takes the
    mean of those that agree."""
    return 1.0 if how in ("ties", "dare_ties") else 1.0 / tasks


def merge_deltas(
    deltas: Sequence[Tensor],
    weights: Sequence[float],
    how: How,
    density: float = 1.0,
    rank: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One dW of several, all of one shape, which it has, too.

    - ``linear`` and ``cat``: sum_t w_t dW_t, task arithmetic (Ilharco et al. 2023, arXiv
      2212.04089); ``cat`` is what the factors stacked give, of rank sum_t r_t.
    - ``svd``: the nearest to that of rank ``rank``.
    - ``ties`` (Yadav et al. 2023, arXiv 2306.01708): of each dW the ``density`` largest entries;
      of each entry the sign of the sum; the mean of w_t dW_t over the tasks that have that sign.
    - ``dare_ties`` (Yu et al. 2023, arXiv 2311.03099): entries dropped at random, with probability
      1 - ``density``, and the others divided by it, in the place of the largest.
    - ``magnitude_prune``: sum_t w_t dW_t of the ``density`` largest entries of each.

    One task with weight 1 and density 1 comes back as it is. ``generator`` is for ``dare_ties``.
    """
    stacked = torch.stack(list(deltas))
    factors = torch.tensor(weights, dtype=stacked.dtype, device=stacked.device)
    factors = factors.reshape(-1, *[1] * (stacked.dim() - 1))
    if how in ("linear", "cat", "svd"):
        total = (factors * stacked).sum(0)
        return cut(total, rank) if how == "svd" and rank is not None else total
    if how == "dare_ties":
        stacked = torch.stack([dropped(delta, density, generator) for delta in stacked])
    else:
        stacked = torch.stack([largest(delta, density) for delta in stacked])
    if how == "magnitude_prune":
        return (factors * stacked).sum(0)
    sign = torch.where(stacked.sum(0) >= 0, 1, -1)
    agreeing = stacked.sign() == sign
    mean: Tensor = (factors * stacked * agreeing).sum(0) / agreeing.sum(0).clamp(min=1)
    return mean


def largest(delta: Tensor, density: float) -> Tensor:
    """The share ``density`` of the entries with the largest absolute values, zeros elsewhere."""
    kept = int(density * delta.numel())
    if kept == delta.numel():
        return delta
    flat = torch.zeros_like(delta).flatten()
    index = delta.abs().flatten().topk(kept).indices
    return flat.index_copy(0, index, delta.flatten()[index]).reshape(delta.shape)


def dropped(delta: Tensor, density: float, generator: torch.Generator | None) -> Tensor:
    """Entries kept with probability ``density`` and divided by it, so that the mean stays."""
    if density >= 1.0:
        return delta
    kept = torch.bernoulli(torch.full(delta.shape, density), generator=generator)
    return delta * kept.to(delta) / density


class Dense(Adapter):
    """A change of weight as it is, in the shape of the base's weight."""

    delta_weight: Tensor

    def __init__(self, delta: Tensor) -> None:
        super().__init__()
        self.register_buffer("delta_weight", delta)

    def forward(self, x: Tensor, base_out: Tensor, base: nn.Module) -> Tensor:
        if isinstance(base, nn.Conv2d):
            change: Tensor = base._conv_forward(x, self.delta_weight, None)
        else:
            change = F.linear(x, self.delta_weight)
        return base_out + change

    def merged_weight(self, weight: Tensor, base: nn.Module) -> Tensor:
        return weight + self.delta_weight


def require_merge(how: str, tasks: int, weights: Sequence[float], density: float) -> None:
    """Refuses, with a MethodError, what no merge can be made of."""
    if how not in HOWS:
        raise MethodError(f"how {how[:40]!r} is not one of {', '.join(HOWS)}")
    if not tasks:
        raise MethodError("no tasks: nothing to merge")
    if len(weights) != tasks:
        raise MethodError(f"{len(weights)} weights for {tasks} tasks")
    if not all(map(math.isfinite, weights)):
        raise MethodError(f"weights {', '.join(f'{w:g}' for w in weights)}: all must be finite")
    if not 0.0 < density <= 1.0:
        raise MethodError(f"density {density:g} is not allowed: it is above 0 and at most 1")
