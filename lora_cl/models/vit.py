"""A small vision transformer: patches, then blocks of attention and a two-layer network."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lora_cl.errors import ConfigError
from lora_cl.models.backbone import Backbone
from lora_cl.models.checkpointing import DeepOptions
from lora_cl.options import OptionsBase


class VitOptions(DeepOptions):
    """`patch`: the side of the squares that an image is cut into, one token each. `width`, `depth`,
    `heads`, `mlp_ratio`: of the blocks. `pool`: the features are the mean of the tokens, or a
    token of their own, `cls`."""

    patch: int = Field(default=4, ge=1, le=256)
    """The side of the squares that an image is cut into, one token each."""
    width: int = Field(default=64, ge=1, le=4096)
    """Numbers of a token."""
    depth: int = Field(default=4, ge=1, le=64)
    """Blocks."""
    heads: int = Field(default=4, ge=1, le=64)
    """Of attention, in each block."""
    mlp_ratio: float = Field(default=2.0, gt=0.0, le=16.0)
    """The width of a block's MLP, as a factor on `width`."""
    pool: Literal["mean", "cls"] = "mean"
    """The features are the mean of the tokens, or a token of their own."""


class Patches(nn.Module):
    """(N, C, H, W) -> (N, H W / patch^2, C patch^2): the squares of an image, row by row."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        return functional.unfold(x, self.patch, stride=self.patch).transpose(1, 2)


class Positions(nn.Module):
    """(N, T, width) -> the same, each token told where it is; with ``cls`` (N, 1 + T, width), a
    learned token first."""

    def __init__(self, tokens: int, width: int, cls: bool) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.zeros(1, 1, width)) if cls else None
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens + cls, width))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws them anew."""
        self.position.normal_(0.0, 0.02)
        if self.cls is not None:
            self.cls.zero_()

    def forward(self, x: Tensor) -> Tensor:
        if self.cls is not None:
            x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1)
        return x + self.position


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V in ``heads`` parts, (N, T, width) -> (N, T, width).

    Vaswani et al. 2017, arXiv 1706.03762, section 3.2. Four Linear layers, q, k, v and proj, so
    that each can be adapted.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): the norm comes first. (N, T, width)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = max(1, round(mlp_ratio * width))
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(up=nn.Linear(width, hidden), gelu=nn.GELU(), down=nn.Linear(hidden, width))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Pool(nn.Module):
    """(N, T, width) -> (N, width): the first token, or the mean of all."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0] if self.first else x.mean(1)


class Vit(nn.Sequential, Backbone):
    """(N, C, H, W) -> (N, width). Dosovitskiy et al. 2020, arXiv 2010.11929, without dropout."""

    Options: ClassVar[type[OptionsBase]] = VitOptions
    summary: ClassVar[str] = "a small vision transformer: patches, then pre-norm blocks"

    def __init__(self, options: VitOptions, input_shape: torch.Size) -> None:
        o = options
        if len(input_shape) != 3:
            raise ConfigError(
                f"model vit needs images (C, H, W), the data has shape {tuple(input_shape)}",
                key="model",
            )
        channels, height, width = input_shape
        if height % o.patch or width % o.patch:
            raise ConfigError(
                f"images of {height} x {width} do not divide into patches of {o.patch} x {o.patch}",
                key="model.patch",
            )
        if o.width % o.heads:
            raise ConfigError(
                f"a width of {o.width} does not divide among {o.heads} heads", key="model.heads"
            )
        tokens = height * width // o.patch**2
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            patches=Patches(o.patch),
            embed=nn.Linear(channels * o.patch**2, o.width),
            positions=Positions(tokens, o.width, o.pool == "cls"),
        )
        for number in range(1, o.depth + 1):
            layers[f"block{number}"] = Block(o.width, o.heads, o.mlp_ratio)
        layers["norm"] = nn.LayerNorm(o.width)
        layers["pool"] = Pool(first=o.pool == "cls")
        super().__init__(layers)
