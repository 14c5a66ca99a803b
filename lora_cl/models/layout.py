"""How images lie in memory on their way through a network."""

from __future__ import annotations

from torch import Tensor, nn


class ChannelsLast(nn.Module):
    """(N, C, H, W) -> the same numbers, on a CPU with the channels of a pixel side by side.

    Every convolution, norm and activation after it keeps that order.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dim() != 4:
            return x
        # vmap, which EWC's gradients of single samples go through, has no memory_format.
        return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def pays(network: nn.Module) -> bool:
    """Whether ``network`` learns faster with channels last: with convolutions of groups it does,
    1.5 times as fast, and with others alone it does not (``make bench``)."""
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return any(convolution.groups > 1 for convolution in convolutions)
