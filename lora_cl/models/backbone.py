"""What every backbone is: a module with options of its own."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from lora_cl.options import OptionsBase


class Backbone(nn.Module):
    """(N, *input_shape) -> (N, features).

    A subclass is made with its own ``Options`` and the shape of one input, and raises ConfigError
    if that does not fit. In one that is a Sequential too, what its frozen beginning computes is
    computed once.
    """

    Options: ClassVar[type[OptionsBase]]
    summary: ClassVar[str]
