"""Networks for images that others made: what they are fed, how they are filled, their stages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lora_cl.data.weights import misfit
from lora_cl.errors import ConfigError
from lora_cl.models.backbone import Backbone
from lora_cl.models.checkpointing import DeepOptions
from lora_cl.models.layout import ChannelsLast, pays
from lora_cl.models.rows import part_of_batch
from lora_cl.text import one_line


class ImageOptions(DeepOptions):
    """`size`: images are stretched to size x size; by default to what the weights were trained
    with, or, with random weights, not at all."""

    size: int | None = Field(default=None, ge=1, le=1024)
    """Images are stretched to size x size; null: to what the weights were trained with, or not
    at all."""


@dataclass(frozen=True)
class Wanted:
    """What weights were trained with: the side of their images, and (x - mean) / std, x in [0, 1].

    Three channels each. Nothing is subtracted or divided by where there is no ``mean``.
    """

    size: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


class Images(nn.Module):
    """(N, C, H, W) float in [0, 1], grey or in colour -> (N, 3, height, width) as weights want it.

    Bilinear with antialiasing, which counts where images shrink; an image of that size is not
    touched. Then (x - mean) / std. Grey is repeated.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self, height: int, width: int, mean: Sequence[float] = (), std: Sequence[float] = ()
    ) -> None:
        super().__init__()
        self.size = (height, width)
        for name, values in (("mean", mean), ("std", std)):
            buffer = torch.tensor(values).view(-1, 1, 1) if values else None
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.size:
            x = functional.interpolate(x, self.size, mode="bilinear", antialias=True)
        if self.mean is not None and self.std is not None:
            x = (x - self.mean) / self.std
        return x.expand(-1, 3, -1, -1)

    def extra_repr(self) -> str:
        return f"size={self.size}"


def images_for(
    name: str, input_shape: torch.Size, size: int | None, wanted: Wanted | None
) -> Images:
    """What makes of inputs of this shape what a network wants; ``wanted`` is None without weights.

    Raises ConfigError for what is no image.
    """
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise ConfigError(
            f"model {name} needs images (C, H, W) with 1 or 3 channels, the data has shape "
            f"{tuple(input_shape)}",
            key="model",
        )
    side = size or (wanted.size if wanted else None)
    height, width = (side, side) if side else input_shape[1:]
    return Images(height, width, *(wanted.mean, wanted.std) if wanted else ())


PIXELS = 2**22
"""As many go through a network at once where nothing is learned: its activations take a hundred
times the memory of its images."""


class ImageNetwork(nn.Sequential, Backbone):
    """(N, C, H, W) -> (N, features): ``images``, then ``network``, which has no classifier.

    Both are tried: ConfigError if the network, which is called ``name``, cannot take such images.
    Where no gradient is asked for, ``rows_at_once`` images go through it at a time.
    """

    def __init__(self, name: str, images: Images, network: nn.Module) -> None:
        layout = {"layout": ChannelsLast()} if pays(network) else {}
        super().__init__(OrderedDict(images=images, **layout, network=network))
        self.rows_at_once = max(1, PIXELS // (images.size[0] * images.size[1]))
        x = torch.rand(1, 3, *images.size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            try:
                features = network.eval()(x)
            except Exception as error:  # What a network raises that was never meant to refuse.
                reason = one_line(error) or type(error).__name__
                raise ConfigError(
                    f"{name} cannot take images of {images.size[0]} x {images.size[1]}: {reason}",
                    "model.size",
                ) from None
            if not isinstance(features, Tensor) or features.dim() != 2:
                raise ConfigError(f"{name} gives no single vector of features", "model.model")
            self.network = in_order(network, x, features)

    def preprocessing(self) -> dict[str, Any]:
        images = cast(Images, self.images)
        normalised = {
            name: [] if values is None else [round(v, 6) for v in values.flatten().tolist()]
            for name, values in (("mean", images.mean), ("std", images.std))
        }
        return {"resized_to": list(images.size), "channels": 3, **normalised}

    def __call__(self, x: Tensor) -> Tensor:
        run = super().__call__
        if torch.is_grad_enabled() or len(x) <= self.rows_at_once:
            return run(x)  # type: ignore[no-any-return]
        found = []
        for rows in torch.split(torch.arange(len(x), device=x.device), self.rows_at_once):
            with part_of_batch(rows):
                found.append(run(x[rows[0] : rows[-1] + 1]))
        return torch.cat(found)


def in_order(network: nn.Module, x: Tensor, features: Tensor) -> nn.Module:
    """``network``'s children as a Sequential, if they make the same ``features`` of x, bit for bit,
    when they run one after another, the last of them on what is flattened; else ``network``.

    Its frozen beginning can then be computed once (``without_prefix``).
    """
    *children, (last, end) = network.named_children()
    chain = nn.Sequential(OrderedDict([*children, ("flatten", nn.Flatten()), (last, end)])).eval()
    try:
        same = torch.equal(chain(x), features)
    except Exception:  # Whatever modules raise that were not made to follow each other.
        same = False
    return chain if same else network


def fill(network: nn.Module, tensors: Mapping[str, Tensor], dropped: Sequence[str]) -> None:
    """Loads ``tensors`` into ``network``, but for those of its layers ``dropped``.

    Raises ConfigError for a ``misfit``. Norms need not say how many batches they saw.
    """
    places, kept = (
        {k: v for k, v in those.items() if not k.startswith(tuple(f"{d}." for d in dropped))}
        for those in (network.state_dict(), tensors)
    )
    counts = {k: v for k, v in places.items() if k.endswith("num_batches_tracked")}
    kept = {**counts, **kept}
    if problem := misfit(places, kept):
        raise ConfigError(f"the weights do not fit: {problem}", "model.weights")
    network.load_state_dict(kept, strict=False)
