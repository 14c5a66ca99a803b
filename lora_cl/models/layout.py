"""How images lie in memory on their way through a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelsLast(nn.Module):
    """(N, C, H, W) -> the same numbers, on a CPU with the channels of a pixel side by side.

    Every convolution, norm and activation after it keeps that order.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dim() != 4:
            return x
        return x.contiguous(memory_format=torch.channels_last)


def pays(network: nn.Module) -> bool:
    """Whether ``network`` learns faster with channels last: where convolutions have groups, 1.7
    times as fast; where none has, up to a tenth slower (``make bench``)."""
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return any(convolution.groups > 1 for convolution in convolutions)
