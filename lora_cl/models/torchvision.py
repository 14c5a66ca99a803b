"""Networks of torchvision, with random weights, its published ones, or your own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from lora_cl.data.fetching import File
from lora_cl.data.links import web_file
from lora_cl.data.weights import Published, Weights, read_safetensors, read_verified_pickle
from lora_cl.errors import ConfigError
from lora_cl.models.backbone import Origin
from lora_cl.models.images import ImageNetwork, ImageOptions, Wanted, fill, images_for
from lora_cl.models.own_weights import own_file
from lora_cl.options import OptionsBase
from lora_cl.text import did_you_mean, one_line

LEFT_OUT = ("googlenet", "inception_v3")
"""They have classifiers at their sides, and normalise by their own rules."""


class TorchvisionOptions(ImageOptions):
    """`model`: a classifier of torchvision. `weights`: null, random ones; `DEFAULT`, those that
    torchvision calls its best; or a safetensors file with the same names."""

    model: str = "resnet18"
    """A classifier of torchvision."""
    weights: str | None = Field(default=None, json_schema_extra={"hashed": False})
    """null, random ones; `DEFAULT`, those that torchvision calls its best; or a safetensors
    file."""


class Torchvision(ImageNetwork):
    """A classifier of ``torchvision.models`` without its last layer.

    A file of your own is taken to want images as the published weights do.
    """

    Options: ClassVar[type[OptionsBase]] = TorchvisionOptions
    summary: ClassVar[str] = "a network of torchvision, random, pretrained or from a file"

    def __init__(
        self, options: TorchvisionOptions, input_shape: torch.Size, folder: Path | None = None
    ) -> None:
        name = options.model
        wanted = _wanted(name) if folder else None
        images = images_for(name, input_shape, options.size, wanted)
        network = _made(name, images.size)
        last = _classifier(network)
        if folder:
            if name.startswith(("vit_", "maxvit")) and images.size != _made_for(wanted):
                raise ConfigError(f"the weights of {name} take no other size", "model.size")
            fill(network, _tensors(options, folder), [last])
        parent, _, child = last.rpartition(".")
        setattr(network.get_submodule(parent), child, nn.Identity())
        super().__init__(name, images, network)
        chosen = options.weights or ""
        sized = "".join(f", {key}={value}" for key, value in _sized(name, images.size).items())
        if chosen == "DEFAULT":
            chosen = str(_default(name))
        self.origin = Origin(
            library="torchvision",
            name=f"{name} {chosen}".strip(),
            call=f"torchvision.models.get_model({name!r}, num_classes={{classes}}{sized})",
            prefix="network.",
            classifier=last,
        )

    @classmethod
    def pretrained(cls, options: TorchvisionOptions) -> Weights | None:
        if options.weights != "DEFAULT":
            return own_file(options.weights, "DEFAULT")
        _check_name(options.model)
        url = str(_default(options.model).url)
        name = url.rpartition("/")[2]
        # What torchvision itself checks: the file's name ends in how its sha256 begins.
        begins = re.search(r"-([0-9a-f]{8,64})\.pth$", name)
        if begins is None:
            raise ConfigError(f"{name}: torchvision names no checksum of it", "model.weights")
        folder = f"torchvision-{name.removesuffix('.pth')}"
        return Published(folder, (File(name, begins[1]),), (web_file(url),))


def _models() -> Any:
    from torchvision import models  # seconds to import

    return models


def _check_name(name: str) -> None:
    known = sorted(set(_models().list_models(module=_models())) - {*LEFT_OUT})
    if name not in known:
        hint = did_you_mean(name, known)
        message = f"torchvision has no classifier called {name[:60]!r} to be used here{hint}"
        raise ConfigError(message, "model.model")


def _default(name: str) -> Any:
    return _models().get_model_weights(name).DEFAULT


def _wanted(name: str) -> Wanted:
    used = _default(name).transforms()
    return Wanted(used.crop_size[0], tuple(used.mean), tuple(used.std))


def _made_for(wanted: Wanted | None) -> tuple[int, int] | None:
    return (wanted.size, wanted.size) if wanted else None


def _made(name: str, size: tuple[int, int]) -> nn.Module:
    _check_name(name)
    try:
        made: nn.Module = _models().get_model(name, weights=None, **_sized(name, size))
    except (ValueError, AssertionError, RuntimeError) as error:
        message = f"{name} cannot take images of {size[0]} x {size[1]}: {one_line(error)}"
        raise ConfigError(message, "model.size") from None
    return made


def _sized(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """What torchvision must be told of images of ``size``."""
    if name.startswith("vit_"):
        return {"image_size": size[0]}
    return {"input_size": size} if name.startswith("maxvit") else {}


def _classifier(network: nn.Module) -> str:
    """The name of the layer that gives the logits: the last linear one, or else convolution."""
    layers = dict(network.named_modules())
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    convolutions = [name for name, layer in layers.items() if isinstance(layer, nn.Conv2d)]
    name: str = (linear or convolutions)[-1]
    return name


def _tensors(options: TorchvisionOptions, folder: Path) -> dict[str, torch.Tensor]:
    if options.weights != "DEFAULT":
        return read_safetensors(folder / Path(str(options.weights)).name)
    (file,) = folder.glob("*.pth")
    # The names in the files of DenseNet are those of an older torchvision.
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.")
    return {old.sub(r"\1\2.", name): t for name, t in read_verified_pickle(file).items()}
