"""Norms that keep statistics of the data, in a network that has not seen any."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


def keep_statistics(network: nn.Module) -> list[_NormBase]:
    """The norms of ``network`` that use running statistics in eval mode."""
    norms = [module for module in network.modules() if isinstance(module, _NormBase)]
    return [norm for norm in norms if norm.running_mean is not None]


@torch.no_grad()
def calibrate_norms(network: nn.Module, x: Tensor) -> None:
    """Sets the running statistics of every norm to those of its own inputs on x (N, *input).

    Each sees what the norms before it make of x, as it will in eval mode, where the network is
    left; nothing else of it changes.
    """
    network.eval()
    norms = keep_statistics(network)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # The plain mean over the batches, of which there is one.
        norm.train()
    try:
        network(x)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
