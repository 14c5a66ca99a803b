"""Columns side by side, joined by lateral adapters: Rusu et al. 2016, arXiv 1606.04671."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LateralAdapter(nn.Module):
    """sigma(V alpha h): what one layer h (N, n_earlier) of earlier columns tells a later one.

    V is (width, n_earlier), without bias; alpha is a learned scale, small and random at first;
    sigma is ReLU. Section 2 of the paper.
    """

    def __init__(self, earlier: int, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(1).uniform_(0.01, 0.1))
        self.V = nn.Linear(earlier, width, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        return torch.relu(self.V(self.alpha * h))


class Column(nn.Module):
    """h_i^(k) = f(W_i h_{i-1}^(k) + U_i sigma(V_i alpha h_{i-1}^(<k))), eq. 2 of the paper.

    ``layers`` is one Sequential per hidden layer, its Linear layer and what goes with it.
    From the second layer on it takes [h_{i-1}^(k), sigma(V_i alpha h_{i-1}^(<k))], so W_i and U_i
    are the left and the right columns of one weight. ``adapters`` feed the layers from the
    second on, and the head; the first column has none.
    """

    def __init__(
        self, layers: Sequence[nn.Module], adapters: Sequence[LateralAdapter] = ()
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.adapters = nn.ModuleList(adapters)

    @property
    def features(self) -> int:
        """How many inputs the head takes: the last layer's outputs, and those of its adapter."""
        return linear_of(self.layers[-1]).out_features + self.lateral_features

    @property
    def lateral_features(self) -> int:
        """Of the head's inputs, those that come from the adapter."""
        return linear_of(self.adapters[-1]).out_features if self.adapters else 0

    def forward(
        self, x: Tensor, earlier: Sequence[Sequence[Tensor]]
    ) -> tuple[list[Tensor], Tensor]:
        """The hidden layers h_1..h_L, each (N, n_i), and the input of the head.

        ``earlier`` holds the hidden layers of every earlier column.
        """
        hidden: list[Tensor] = []
        h = x
        for i, layer in enumerate(self.layers):
            hidden.append(layer(h))
            h = hidden[i]
            if self.adapters:
                h_earlier = torch.cat([column[i] for column in earlier], dim=1)
                h = torch.cat([h, self.adapters[i](h_earlier)], dim=1)
        return hidden, h

    def lateral_parameters(self) -> int:
        """Parameters of alpha, V and U, but for U of the head."""
        adapters = sum(p.numel() for p in self.adapters.parameters())
        fed = zip(list(self.layers)[1:], self.adapters, strict=False)
        return adapters + sum(
            linear_of(layer).out_features * linear_of(adapter).out_features
            for layer, adapter in fed
        )


class Columns(nn.Module):
    """(N, *input) -> what the head of the last column takes."""

    def __init__(self, columns: Sequence[nn.Module]) -> None:
        super().__init__()
        self.columns = nn.ModuleList(columns)

    def forward(self, x: Tensor) -> Tensor:
        earlier: list[list[Tensor]] = []
        h = x
        for column in self.columns:
            hidden, h = column(x, earlier)
            earlier.append(hidden)
        return h


def linear_of(module: nn.Module) -> nn.Linear:
    """The Linear layer in ``module``, which has one."""
    return next(m for m in module.modules() if isinstance(m, nn.Linear))


def hidden_layers(backbone: nn.Module) -> list[nn.Sequential] | None:
    """The backbone's own modules, grouped by hidden layer; its weights are not copied.

    None for anything but a stack of linear layers.
    """
    layers: list[list[nn.Module]] = [[]]
    known = (nn.Flatten, nn.Linear, nn.ReLU, nn.Dropout)
    for module in backbone.children() if isinstance(backbone, nn.Sequential) else [backbone]:
        if not isinstance(module, known):
            return None
        if isinstance(module, nn.Linear) and any(isinstance(m, nn.Linear) for m in layers[-1]):
            layers.append([])
        layers[-1].append(module)
    return [nn.Sequential(*layer) for layer in layers]


def later_column(layers: Sequence[nn.Module], scale: float, earlier: Sequence[Column]) -> Column:
    """A fresh column built like ``layers``, ``scale`` times as wide, with all its adapters.

    An adapter is as wide as the layer of the new column that it stands beside. Draws from the
    global generator.
    """
    wide = linear_of(layers[0]).in_features
    fresh, adapters = [], []
    for i, layer in enumerate(layers):
        width = max(1, round(scale * linear_of(layer).out_features))
        fresh.append(
            nn.Sequential(
                *(
                    nn.Linear(wide, width, bias=m.bias is not None)
                    if isinstance(m, nn.Linear)
                    else copy.deepcopy(m)
                    for m in layer.children()
                )
            )
        )
        beside = sum(linear_of(column.layers[i]).out_features for column in earlier)
        adapters.append(LateralAdapter(beside, width))
        wide = 2 * width
    return Column(fresh, adapters)
