"""Columns of any network that names its stages, joined between them: after Rusu et al. 2016, arXiv
1606.04671."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lora_cl.errors import ConfigError
from lora_cl.models.backbone import stages
from lora_cl.models.columns import LateralAdapter
from lora_cl.models.remembering import RememberingBackbone

Start = Literal["random", "base"]


class Lateral(nn.Module):
    """U sigma(V alpha h): what the earlier columns' h, ``earlier`` channels together, adds to the
    ``width`` channels of a later one; both (N, C), (N, T, C) or (N, C, H, W)."""

    def __init__(self, earlier: int, width: int) -> None:
        super().__init__()
        self.adapter = LateralAdapter(earlier, width)
        self.U = nn.Linear(width, width, bias=False)

    def forward(self, h: Sequence[Tensor]) -> Tensor:
        images = h[0].dim() == 4
        last = [x.movedim(1, -1) if images else x for x in h]
        added: Tensor = self.U(self.adapter(torch.cat(last, dim=-1)))
        return added.movedim(-1, 1) if images else added


class StageColumn(nn.Module):
    """h_i^(k) = f_i(h_{i-1}^(k) + U_i sigma(V_i alpha h_{i-1}^(<k))), f_i a group of stages.

    Where f_i begins with a linear layer this is equation 2 of the paper with W_i U_i for U_i; a
    block of a transformer or a ResNet, which begins otherwise, is told the same way. ``laterals``
    feed the groups from the second on, and the head; the first column has none.
    """

    lateral_features = 0
    """Of the head's inputs, those that come from laterals alone."""

    def __init__(
        self, layers: Sequence[nn.Module], features: int, laterals: Sequence[Lateral] = ()
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.laterals = nn.ModuleList(laterals)
        self.features = features

    def forward(
        self, x: Tensor, earlier: Sequence[Sequence[Tensor]]
    ) -> tuple[list[Tensor], Tensor]:
        """What every group gives, and the input of the head; ``earlier`` as in ``Column``."""
        hidden: list[Tensor] = []
        h = x
        for i, layer in enumerate(self.layers):
            hidden.append(layer(h))
            h = hidden[i]
            if self.laterals:
                h = h + self.laterals[i]([column[i] for column in earlier])
        return hidden, h

    def lateral_parameters(self) -> int:
        """Parameters of alpha, V and U."""
        return sum(parameter.numel() for parameter in self.laterals.parameters())


def stage_groups(backbone: nn.Module) -> list[nn.Module]:
    """The backbone's stages, its own modules, each with the norms, activations and poolings that
    follow it."""
    groups: list[list[nn.Module]] = [[]]
    for stage in stages(backbone):
        if _weighty(stage) and any(_weighty(module) for module in groups[-1]):
            groups.append([])
        groups[-1].append(stage)
    return [nn.Sequential(*group) for group in groups]


def _weighty(module: nn.Module) -> bool:
    return any(parameter.dim() > 1 for parameter in module.parameters())


@torch.no_grad()
def channels(groups: Sequence[nn.Module], x: Tensor) -> list[int]:
    """The channels of what every group makes of x (1, *input); ConfigError for a shape without."""
    found: list[int] = []
    for group in groups:
        x = group.eval()(x)
        if x.dim() not in (2, 3, 4):
            raise ConfigError(f"columns cannot join stages with outputs of {tuple(x.shape)}")
        found.append(x.shape[1] if x.dim() == 4 else x.shape[-1])
    return found


def later_stages(
    groups: Sequence[nn.Module], widths: Sequence[int], earlier: int, start: Start
) -> StageColumn:
    """A fresh column built like ``groups``, which ``earlier`` columns tell what they know.

    It starts from the weights of ``groups`` or from random ones, drawn from the global generator.
    """
    layers = [copy.deepcopy(group).requires_grad_(True) for group in groups]
    for module in (module for layer in layers for module in layer.modules()):
        if isinstance(module, RememberingBackbone):
            module.store = None  # Its weights are about to be others.
    if start == "random":
        for layer in layers:
            draw_anew(layer)
    return StageColumn(layers, widths[-1], [Lateral(earlier * width, width) for width in widths])


def draw_anew(network: nn.Module) -> None:
    """Gives every layer fresh weights of its kind's own initialisation.

    ConfigError for weights that no layer knows how to draw.
    """
    drawn: set[int] = set()
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        reset = reset or getattr(module, "_reset_parameters", None)
        if callable(reset):
            reset()
            drawn |= {id(parameter) for parameter in module.parameters(recurse=False)}
    for name, parameter in network.named_parameters():
        if id(parameter) not in drawn:
            raise ConfigError(f"{name} cannot be drawn anew for a column; use start: base")
