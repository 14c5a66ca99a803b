"""The one adapter mechanism: a frozen base layer with a bank of named adapters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from lora_cl.adapters.nf4 import NF4Conv2d


class Factor(nn.Module):
    """One trainable matrix, named ``<factor>.weight`` as PEFT names it. Draws no random number."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


class Adapter(nn.Module):
    """What an adapter offers: its part of the forward pass, and itself as a change of weight."""

    def forward(self, x: Tensor, base_out: Tensor, base: nn.Module) -> Tensor:
        """The layer's output, (..., d_out), from its input, (..., d_in), and the output so far.

        ``base_out`` may be a cache: it is never written to.
        """
        raise NotImplementedError

    def merged_weight(self, weight: Tensor, base: nn.Module) -> Tensor:
        """``weight`` (the shape of the base's weight, adapters before this one merged), adapted."""
        raise NotImplementedError

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """(d_out, r) and (r, d_in) whose product is the change of weight, a kernel as the matrix
        (c_out, c_in * kh * kw); None where it is no such product."""
        return None

    @torch.no_grad()
    def delta(self, base: nn.Module) -> Tensor:
        """The change of the base's weight, in its shape."""
        weight = cast(Tensor, base.weight)
        if (factors := self.factors()) is not None:
            return (factors[0] @ factors[1]).reshape(weight.shape)
        return self.merged_weight(weight, base) - weight


def adaptable(layer: nn.Module) -> bool:
    """Whether an adapter fits: a Linear or Conv2d, or a kind of them that computes as they do."""
    return type(layer).forward in (nn.Linear.forward, nn.Conv2d.forward)


def depthwise(layer: nn.Module) -> bool:
    """Whether ``layer``, adapted or not, is a convolution of every channel for itself.

    An adapter there, whose rank is a multiple of the groups, is larger than the layer.
    """
    base = layer.base if isinstance(layer, AdaptedLayer) else layer
    return isinstance(base, nn.Conv2d) and base.groups == base.in_channels > 1


class AdaptedLayer(nn.Module):
    """A frozen base layer (Linear or Conv2d, in 4 bits or not) and the adapters it is used with.

    ``active`` names the adapters in the order they are applied; with none the layer is its base.
    Switching task is setting ``active``.
    """

    def __init__(self, base: nn.Module, batch_dim: int = 0) -> None:
        super().__init__()
        self.base = base.requires_grad_(False).eval()
        self.batch_dim = batch_dim
        """The dimension of its inputs and outputs in which the samples of a batch lie."""
        self.adapters = nn.ModuleDict()
        self.active: tuple[str, ...] = ()
        self.mixture: Callable[[AdaptedLayer, Tensor, Tensor], Tensor] | None = None
        """Takes the place of ``active`` where the rows of a batch go through different adapters."""

    @property
    def weight(self) -> Tensor:
        """The base's: some networks look up a layer's type and device there."""
        return cast(Tensor, self.base.weight)

    def train(self, mode: bool = True) -> AdaptedLayer:
        super().train(mode)
        self.base.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.from_base(x, self.base(x))

    def from_base(self, x: Tensor, base_out: Tensor) -> Tensor:
        """The output for ``x`` where ``base_out = self.base(x)`` is known already, such as from a
        cache: only the adapters are computed."""
        if self.mixture is not None:
            return self.mixture(self, x, base_out)
        out = base_out
        for name in self.active:
            out = self.adapters[name](x, out, self.base)
        return out

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """A new plain Linear or Conv2d that computes what this layer computes now."""
        weight = cast(Tensor, self.base.weight)
        for name in self.active:
            weight = cast(Adapter, self.adapters[name]).merged_weight(weight, self.base)
        plain = self._plain()
        plain.weight = nn.Parameter(weight.clone(), requires_grad=False)
        return plain

    def _plain(self) -> nn.Linear | nn.Conv2d:
        if isinstance(self.base, NF4Conv2d):
            return self.base.plain()
        if isinstance(self.base, nn.Conv2d):
            return copy.deepcopy(self.base)
        d_out, d_in = cast(Tensor, self.base.weight).shape
        bias = cast("Tensor | None", self.base.bias)
        # On the meta device, so that no global random number is drawn for a weight to be replaced.
        linear = nn.Linear(d_in, d_out, bias=bias is not None, device="meta")
        if bias is not None:
            linear.bias = nn.Parameter(bias.clone(), requires_grad=False)
        return linear.eval()

    def extra_repr(self) -> str:
        return f"active={self.active}"
