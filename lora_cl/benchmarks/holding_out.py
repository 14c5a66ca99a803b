"""Training samples that no method sees, to choose by: drawn per class and seed."""

from __future__ import annotations

import torch
from torch import Tensor


def held_of(count: int, share: float) -> int:
    """How many of a class's ``count`` samples are held out: the rounded share, at least one.

    One sample is left to train with, and none held out where there is but one.
    """
    return min(count - 1, max(1, round(share * count)))


def hold_out(y: Tensor, share: float, order: Tensor) -> tuple[Tensor, Tensor]:
    """Which samples of labels y (N,) are left, and which held out, as indices in rising order.

    Of each class those that come first in ``order``, a permutation of the N.
    """
    held = torch.zeros(len(y), dtype=torch.bool)
    labels = y.cpu()[order]
    for label in torch.unique(labels):
        own = order[labels == label]
        held[own[: held_of(len(own), share)]] = True
    return torch.nonzero(~held).squeeze(1), torch.nonzero(held).squeeze(1)
