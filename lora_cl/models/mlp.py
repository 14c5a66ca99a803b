"""A multi-layer perceptron: flatten, then linear layers with ReLU."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn

from lora_cl.models.backbone import Backbone
from lora_cl.options import OptionsBase

Width = Annotated[int, Field(ge=1, le=65536)]


class MlpOptions(OptionsBase):
    """The width of every hidden layer, from the input on; `dropout` follows each ReLU."""

    hidden: list[Width] = Field(default=[400, 400], min_length=1, max_length=64)
    """Width of every hidden layer, from the input on."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """After each ReLU."""


class Mlp(nn.Sequential, Backbone):
    """(N, *input_shape) -> (N, hidden[-1]). Layers are called linear1, relu1, linear2, ..."""

    Options: ClassVar[type[OptionsBase]] = MlpOptions
    summary: ClassVar[str] = "a multi-layer perceptron: flatten, then linear layers with ReLU"

    def __init__(self, options: MlpOptions, input_shape: torch.Size) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        width = input_shape.numel()
        for number, hidden in enumerate(options.hidden, start=1):
            layers[f"linear{number}"] = nn.Linear(width, hidden)
            layers[f"relu{number}"] = nn.ReLU()
            if options.dropout:
                layers[f"dropout{number}"] = nn.Dropout(options.dropout)
            width = hidden
        super().__init__(layers)
