"""Convolutions padded as TensorFlow pads them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SameConv2d(nn.Conv2d):
    """ceil(size / stride) outputs whatever the kernel; where the zeros around the image are odd in
    number, the last row and column are one more.

    The padding is part of ``_conv_forward``, so that an adapter's kernel is padded the same way.
    """

    def padded(self, x: Tensor) -> Tensor:
        """(N, C, H, W) with the zeros around it."""
        zeros: list[int] = []
        sizes = zip(x.shape[2:], self.kernel_size, self.stride, self.dilation, strict=True)
        for size, kernel, stride, dilation in sizes:
            covered = (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1
            missing = max(0, covered - size)
            zeros = [missing // 2, missing - missing // 2, *zeros]
        return functional.pad(x, zeros) if any(zeros) else x

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        made: Tensor = torch.conv2d(
            self.padded(input), weight, bias, self.stride, 0, self.dilation, self.groups
        )
        return made
