"""The frozen beginning of a network, computed once for all samples of a task."""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from lora_cl.data.streaming import Inputs, parts
from lora_cl.models.backbone import stages
from lora_cl.models.cut import UncuttableError, cut
from lora_cl.models.layout import ChannelsLast
from lora_cl.models.network import TaskNetwork

CHUNK = 1024
MAX_BYTES = 2 * 1024**3
"""Features that would take more than this are not kept; decided by shapes alone."""


SMALLEST_BATCH = 4
"""Below this many rows a matrix product rounds otherwise than among more rows."""
PROBES = 4


class Adapted(Protocol):
    """What the first layer that trains must offer for its base's output to be kept."""

    def from_base(self, x: Tensor, base_out: Tensor) -> Tensor: ...


class FromBase(nn.Module):
    """The first layer that trains, if its frozen base is known already.

    Takes rows that hold the layer's input and its base's output side by side, and hands both to
    ``layer.from_base``.
    """

    def __init__(self, layer: nn.Module, input_shape: torch.Size, output_shape: torch.Size) -> None:
        super().__init__()
        self.layer = layer
        self.input_shape, self.output_shape = input_shape, output_shape
        self.split = input_shape.numel()

    def forward(self, rows: Tensor) -> Tensor:
        """(N, input + output of the base) -> the layer's output (N, *output_shape)."""
        x = rows[:, : self.split].view(-1, *self.input_shape)
        base_out = rows[:, self.split :].view(-1, *self.output_shape)
        return cast(Adapted, self.layer).from_base(x, base_out)


def without_prefix(
    network: TaskNetwork,
    x: Inputs,
    batch_size: int,
    decided: bool | None = None,
    micro_batch: int | None = None,
) -> tuple[TaskNetwork, Inputs]:
    """``network`` without its frozen beginning, and x (N, *input) as that beginning leaves it.

    The pair computes what (network, x) computes, bit for bit as far as a few probes tell; where
    it does not, where there is nothing to gain, or where the features would be too large,
    (network, x) is returned as it is.
    Modules are shared with ``network``: training the one trains the other. ``decided`` says what
    was found when the fit began, for one that is resumed: its weights have moved since, and so
    may have their last bits. Batches may be taken in parts of ``micro_batch``.
    """
    if decided is False:
        return network, x
    try:
        return _without_prefix(network, x, batch_size, decided, micro_batch)
    except UncuttableError:
        return network, x


def _without_prefix(
    network: TaskNetwork, x: Inputs, batch_size: int, decided: bool | None, micro_batch: int | None
) -> tuple[TaskNetwork, Inputs]:
    network.eval()
    children = [part for stage in stages(network.backbone) for part in cut(stage)]
    length = 0
    while length < len(children) and _fixed(children[length]):
        length += 1
    rest = children[length:]
    prefix = nn.Sequential(*children[:length])
    shape_in = _shape(prefix, x)
    layouts = [module for module in prefix.modules() if isinstance(module, ChannelsLast)]
    if layouts and len(shape_in) == 3:
        # Rows taken out of memory have lost their layout. The layer after it keeps no base's
        # output: a convolution is as cheap as laying that out.
        rest = [layouts[0], *rest]
    base = getattr(rest[0], "base", None) if rest and hasattr(rest[0], "from_base") else None
    if isinstance(base, nn.Module) and _fixed(base):
        shape_out = _shape(base, prefix(x[:1]))
        rest[0] = FromBase(rest[0], shape_in, shape_out)
        size = shape_in.numel() + shape_out.numel()
    else:
        base, size = None, shape_in.numel()
    works = any(True for child in children[:length] for _ in child.parameters()) or base is not None
    if not works or len(x) * size * x[:1].element_size() > MAX_BYTES:
        return network, x

    @torch.no_grad()
    def computed(part: Tensor) -> Tensor:
        out: Tensor = prefix(part)
        if base is None:
            return out
        return torch.cat([out.flatten(1), base(out).flatten(1)], dim=1)

    at_once = min(CHUNK, getattr(network.backbone, "rows_at_once", CHUNK))
    rows = torch.cat([computed(part) for part in parts(x, at_once)])
    shorter = TaskNetwork(nn.Sequential(*rest), list(network.heads), network.offsets)
    shorter.outputs, shorter.same_task = network.outputs, network.same_task
    shorter.eval()
    if decided:
        return shorter, rows
    sizes = {min(batch_size, len(x)), len(x) % batch_size or batch_size}
    if micro_batch is not None:
        sizes = {min(size, micro_batch) for size in sizes} | {
            size % micro_batch or micro_batch for size in sizes if size > micro_batch
        }
    # A text is many rows by itself.
    few = min(sizes) < SMALLEST_BATCH and x[:1].is_floating_point()
    if few or not _same_bits(network, x, shorter, rows, sizes):
        return network, x
    return shorter, rows


@torch.no_grad()
def _same_bits(
    network: TaskNetwork, x: Inputs, shorter: TaskNetwork, rows: Tensor, sizes: set[int]
) -> bool:
    """Whether both give the same output for a few batches of random samples of each size."""
    for size in sizes:
        for draw in range(PROBES):
            chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(draw))[:size]
            index = chosen.to(x.device)
            if not torch.equal(network(x[index]), shorter(rows[index])):
                return False
    return True


def _fixed(module: nn.Module) -> bool:
    """Whether a module gives the same output for the same input during the whole fit."""
    parameters = list(module.parameters())
    if parameters:  # Dropout inside is off where all around it is frozen.
        return not any(parameter.requires_grad for parameter in parameters)
    return not any(isinstance(inner, nn.modules.dropout._DropoutNd) for inner in module.modules())


def _shape(module: nn.Module, x: Inputs) -> torch.Size:
    with torch.no_grad():
        return torch.Size(module(x[:1]).shape[1:])
