"""A small convolutional network: blocks of convolution, batch norm, ReLU and max pooling."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn

from lora_cl.errors import ConfigError
from lora_cl.models.backbone import Backbone
from lora_cl.options import OptionsBase

Width = Annotated[int, Field(ge=1, le=4096)]


class CnnOptions(OptionsBase):
    """Channels of every block; the width of the linear layer on top; batch norm or none."""

    channels: list[Width] = Field(default=[32, 64], min_length=1, max_length=8)
    """Of every block: convolution, norm, ReLU, pooling."""
    hidden: int = Field(default=128, ge=1)
    """Width of the linear layer on top."""
    norm: bool = True
    """Batch norm in every block, or none."""


class Cnn(nn.Sequential, Backbone):
    """(N, C, H, W) -> (N, hidden). Each block halves height and width."""

    Options: ClassVar[type[OptionsBase]] = CnnOptions
    summary: ClassVar[str] = "a small convolutional network: convolution, norm, ReLU, pooling"

    def __init__(self, options: CnnOptions, input_shape: torch.Size) -> None:
        if len(input_shape) != 3:
            raise ConfigError(
                f"model cnn needs images (C, H, W), the data has shape {tuple(input_shape)}",
                key="model",
            )
        channels, height, width = input_shape
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, wide in enumerate(options.channels, start=1):
            if min(height, width) < 2:
                raise ConfigError(
                    f"{len(options.channels)} blocks are too many for images of "
                    f"{input_shape[1]} x {input_shape[2]}: at most {number - 1}",
                    key="model.channels",
                )
            layers[f"conv{number}"] = nn.Conv2d(channels, wide, 3, padding=1, bias=not options.norm)
            if options.norm:
                layers[f"norm{number}"] = nn.BatchNorm2d(wide)
            layers[f"relu{number}"] = nn.ReLU()
            layers[f"pool{number}"] = nn.MaxPool2d(2)
            channels, height, width = wide, height // 2, width // 2
        layers["flatten"] = nn.Flatten()
        layers["linear"] = nn.Linear(channels * height * width, options.hidden)
        layers["relu"] = nn.ReLU()
        super().__init__(layers)
